"""The arguments, options and help texts of all commands. Importing it loads no command, so that `--help` is quick."""

import argparse
from collections.abc import Callable
from typing import NoReturn

from lthcore import __version__
from lthcore.errors import one_line
from lthcore.paths import PROFILES

EXAMPLES = """examples:
  lth list                                            list all studies: what is complete, and the time for the rest
  lth list dynamic_pruning/lenet                      list single experiments, and runs with changed settings
  lth run params/iterative_pruning/lenet_mnist.yaml   find winning tickets at profile cpu, or resume
  lth run params/iterative_pruning/lenet_mnist.yaml --profile smoke -p learning_rate 2e-4 -p trials 3
  lth run params/iterative_pruning/lenet_mnist.yaml --time-limit 600   stop cleanly after ten minutes
  lth run params/dynamic_pruning/lenet_mnist.yaml --only 90   run one experiment of a sweep
  lth settings                                        list the settings of params files, and what they may be
  lth notebook notebooks/quickstart.ipynb             execute a notebook, and print what it prints
  lth notebook notebooks/quickstart.ipynb -p trials 2 -p rounds 8
  lth show paper/iterative_pruning/lenet_mnist        print the numbers of a run
  lth export iterative_pruning/lenet_mnist --remaining 4.5 --to ticket.safetensors   save a winning ticket to a file
  lth data verify mnist                               check that the data are there and as published
  lth figures                                         redraw all figures in figures/
  lth figures paper/iterative_pruning/lenet_mnist     draw one run, beside its tables
  lth figures lenet_mnist_sgd lenet_mnist_at_init     draw the tickets of both runs into one figure
  lth scorecard                                       grade the paper's claims by the tables
  lth queue --profile cpu --ask                       print the queue's plan and its time, and ask before it begins
  lth queue --profile paper --time-limit 600 --pack tables.tar.gz   run the queue for ten minutes and pack its tables
  lth queue --engine ray --gpus-per-run .25           run the queue on Ray
  lth unpack tables.tar.gz                            merge packed tables into results/
"""
STATUS = """
exit status: 0 success, 2 an error that you can correct (explained in one line), 70 an internal error (--debug or
LTH_DEBUG=1 shows the traceback), 75 stopped by --time-limit or SIGTERM, 130 interrupted by Ctrl-C
"""
RUN = "<profile>/<study>/<variant>, <study>/<variant>, or the variant alone if only one study has it"

# function that adds a command (its name, the function that runs it, its help) and returns the parser of its options
Command = Callable[[str, str, str], argparse.ArgumentParser]


class _Parser(argparse.ArgumentParser):
    """Argument parser that reports an error in one line, however long the command line is."""

    def error(self, message: str) -> NoReturn:
        """Print the error and exit with status 2."""
        self.exit(2, one_line(f"lth: {message}; `{self.prog} --help` lists the options") + "\n")


def parser_of_commands() -> argparse.ArgumentParser:
    """Return the parser of `lth`. Its option `command` names the module of commands and the function that runs."""
    parser = _Parser(
        prog="lth",
        description="Find winning lottery tickets, and test the claims about them.",
        epilog=EXAMPLES + STATUS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"lth {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, function: str, text: str) -> argparse.ArgumentParser:
        examples = [line for line in EXAMPLES.splitlines() if line.startswith(("examples", f"  lth {name} "))]
        sub = subparsers.add_parser(
            name, help=text, description=text, epilog="\n".join([*examples, STATUS]),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        sub.set_defaults(command=function)
        sub.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        sub.add_argument(
            "--plugin",
            action="append",
            default=[],
            metavar="FILE",
            help="first run FILE, which registers code of your own",
        )
        return sub

    for add in (
        _add_list,
        _add_run,
        _add_notebook,
        _add_settings,
        _add_show,
        _add_export,
        _add_figures,
        _add_scorecard,
        _add_queue,
        _add_unpack,
        _add_data,
    ):
        add(command)
    return parser


def _add_list(command: Command) -> None:
    sub = command(
        "list",
        "listing.list_command",
        "list every study: what is complete at each profile, and how long the rest would take",
    )
    sub.add_argument(
        "name",
        nargs="?",
        default="",
        metavar="NAME",
        help="list the experiments of params files whose name contains NAME",
    )
    sub.add_argument("--all", action="store_true", help="list all experiments, each timed on this machine")


def _add_run(command: Command) -> None:
    sub = command("run", "run.run_command", "run experiments, or resume them")
    sub.add_argument("params", nargs="+", metavar="PARAMS", help="params/<study>/<variant>.yaml")
    sub.add_argument("--profile", default="cpu", metavar="P", help=f"{', '.join(PROFILES)} (default: cpu)")
    sub.add_argument("--only", metavar="LABEL", help="run the experiment of one label of a sweep")
    sub.add_argument(
        "-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"),
        help="override a setting; such a run is stored beside the one of the params file",
    )  # fmt: skip
    sub.add_argument(
        "--time-limit", type=_positive, default=float("inf"), metavar="S", help="stop cleanly after S seconds"
    )
    sub.add_argument(
        "--no-notebook", action="store_true", help="train without executing the notebook; needs no Jupyter"
    )
    _may_ask(sub)
    sub.add_argument("--force", action="store_true", help="first delete the present results of these runs")


def _add_notebook(command: Command) -> None:
    sub = command("notebook", "notebook.notebook_command", "execute a notebook headless and print its output")
    sub.add_argument("notebook", metavar="NOTEBOOK", help="notebooks/<name>.ipynb")
    sub.add_argument(
        "-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"),
        help="another value for a parameter of the notebook",
    )  # fmt: skip
    sub.add_argument("--to", metavar="FILE", help="the executed copy (default: build/<name>.ipynb)")


def _add_settings(command: Command) -> None:
    sub = command("settings", "settings.settings_command", "list the settings of params files, and what they may be")
    sub.add_argument(
        "study", nargs="?", default="iterative_pruning", metavar="STUDY",
        help="folder of params/, such as dynamic_pruning (default: iterative_pruning)",
    )  # fmt: skip


def _add_show(command: Command) -> None:
    sub = command("show", "show.show_command", "show a run's provenance and numbers")
    sub.add_argument("run", metavar="RUN", help=f"{RUN}, or a folder")


def _add_export(command: Command) -> None:
    sub = command(
        "export", "show.export_command", "write a ticket of a committed run to a file: mask and initial weights"
    )
    sub.add_argument("run", metavar="RUN", help=RUN)
    sub.add_argument("--trial", type=int, default=0, metavar="N", help="trial of the run, from 0 (default: 0)")
    sub.add_argument(
        "--remaining",
        type=_positive,
        metavar="P",
        help="export the ticket with about P%% of weights remaining (default: the smallest)",
    )
    sub.add_argument("--to", required=True, metavar="FILE", help="ticket.safetensors, .pt (a state dict) or .onnx")
    sub.add_argument("--compacted", action="store_true", help="remove neurons without remaining inputs or outputs")
    sub.add_argument("--push", metavar="OWNER/NAME", help="also upload it, with its card, to the Hugging Face hub")


def _add_figures(command: Command) -> None:
    sub = command(
        "figures", "report.figures_command", "redraw the paper's and the studies' figures/, or any run; no training"
    )
    sub.add_argument(
        "runs",
        nargs="*",
        metavar="RUN",
        help="draw only this run, also one of your own, and save the figures beside its tables; draw the tickets of "
        "several runs together",
    )
    sub.add_argument(
        "--table", action="store_true", help="instead write params/FIGURES.md: which runs each figure needs"
    )


def _add_scorecard(command: Command) -> None:
    sub = command("scorecard", "report.scorecard_command", "grade the paper's claims from the tables")
    sub.add_argument("--readme", action="store_true", help="also update README.md and results/README.md")


def _add_queue(command: Command) -> None:
    sub = command("queue", "queue.queue_command", "run all unfinished experiments in the order of params/QUEUE.yaml")
    sub.add_argument("--profile", default="paper", metavar="P", help=f"{', '.join(PROFILES)} (default: paper)")
    sub.add_argument(
        "--time-limit", type=_positive, default=float("inf"), metavar="S", help="stop cleanly after S seconds"
    )
    _may_ask(sub)
    sub.add_argument("--pack", metavar="FILE", help="at the end, pack the profile's tables into FILE (.tar.gz)")
    sub.add_argument("--only", default="", metavar="NAME", help="only experiments whose name contains NAME")
    sub.add_argument("--notebooks", action="store_true", help="also execute each finished experiment's notebook")
    sub.add_argument(
        "--mirror",
        metavar="URL",
        help="also copy tables to URL: a folder, s3://..., or anything else that fsspec supports",
    )
    sub.add_argument("--engine", choices=["local", "ray"], default="local", help="ray trains on a cluster")
    sub.add_argument("--address", metavar="A", help="address of the Ray cluster (default: start a local Ray)")
    sub.add_argument(
        "--cpus-per-run", type=_positive, default=1.0, metavar="N", help="CPUs for each training run on Ray"
    )
    sub.add_argument(
        "--gpus-per-run", type=_share, default=0.0, metavar="N", help="GPUs for each trial on Ray, such as .25"
    )


def _add_unpack(command: Command) -> None:
    sub = command("unpack", "queue.unpack_command", "merge the tables of `lth queue --pack` into results/")
    sub.add_argument("archive", metavar="FILE")


def _add_data(command: Command) -> None:
    sub = command("data", "data.data_command", "fetch or verify data sets")
    sub.add_argument("action", choices=["fetch", "verify"])
    sub.add_argument(
        "names", nargs="+", metavar="NAME", help="data set, such as mnist or cifar10; an unknown name lists them all"
    )


def _may_ask(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--ask", action="store_true", help="print the plan and its estimated time, and ask for confirmation"
    )
    sub.add_argument("--yes", action="store_true", help="with --ask, start without confirmation")


def _share(text: str) -> float:
    value = _number(text)
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0")
    return value


def _positive(text: str) -> float:
    value = _number(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is not a number") from None
