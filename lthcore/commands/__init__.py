"""The `lth` commands. Their arguments and the handling of their errors are in lthcore/cli.py.

Each command is a function of its options, in a module that is imported only when the command is given.
"""
