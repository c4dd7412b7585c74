"""`lth data`: fetch or verify data sets."""

import argparse

from lthcore.paths import data_root
from lthcore.sources.catalogue import fetch, verified


def data_command(options: argparse.Namespace) -> None:
    """Fetch or verify data sets."""
    look = fetch if options.action == "fetch" else verified
    for name in options.names:
        print(f"{name}: {look(name)} ({data_root()})")
