"""`python -m rlm_nb`: the command line."""

from rlm_nb.cli.main import main

if __name__ == "__main__":
    main()
