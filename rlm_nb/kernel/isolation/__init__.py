"""What keeps a kernel from all that is none of its business: namespaces, Landlock and seccomp, by ctypes alone.

`policy.py` says what may be reached, `choice.py` which level this machine can hold, by what `detection.py` asks and
`attempts.py` tries. `birth.py` brings a confined process into the world, in the steps of `confining.py`;
`namespaces.py`, `landlock.py` and `seccomp.py` are the three walls, and `plan.py` says what there is behind the first.
`bubblewrap.py` is for machines where only that program may build it. `canaries.py` tries whether the walls stand,
before anything that is not trusted runs, and `checking.py` looks from outside.
"""
