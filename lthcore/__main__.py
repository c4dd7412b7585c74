"""`python -m lthcore` is the command `lth`."""

from lthcore.cli import main

if __name__ == "__main__":
    main()
