"""The `lth` commands. Their arguments are in `parser`; lthcore/cli.py handles their errors.

Each command is a function of its options, in a module that is imported only when the command is given.
"""
