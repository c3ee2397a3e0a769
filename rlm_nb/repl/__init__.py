"""What runs inside the kernel process: the names that the model finds in its REPL."""
