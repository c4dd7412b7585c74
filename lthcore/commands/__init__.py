"""The `lth` commands. Their arguments and the handling of their errors are in lthcore/cli.py."""

from lthcore.commands.data import data_command
from lthcore.commands.listing import list_command
from lthcore.commands.notebook import notebook_command
from lthcore.commands.queue import queue_command, unpack_command
from lthcore.commands.report import figures_command, scorecard_command
from lthcore.commands.run import run_command
from lthcore.commands.settings import settings_command
from lthcore.commands.show import export_command, show_command

__all__ = [
    "data_command",
    "export_command",
    "figures_command",
    "list_command",
    "notebook_command",
    "queue_command",
    "run_command",
    "scorecard_command",
    "settings_command",
    "show_command",
    "unpack_command",
]
