"""What keeps a kernel from all that is none of its business: namespaces, Landlock and seccomp, by ctypes alone.

`policy.py` says what may be reached, `choice.py` which level this machine can hold, by what `detection.py` asks and
`attempts.py` tries. `birth.py` brings a confined
process into the world, in the steps of `confining.py`; `namespaces.py`, `landlock.py` and `seccomp.py` are the three
walls. `canaries.py` tries whether they stand, before anything that is not trusted runs, and `checking.py` looks from
outside.
"""
