"""Recursive Language Model agents whose REPL is a real IPython kernel and whose run is a real notebook.

Importing this package does nothing; the names below are loaded when they are first used.
"""
