"""`lth notebook`: execute notebooks headless, with their defaults or over a finished run."""

import argparse
import json
import logging
import sys
from base64 import b64decode, b64encode
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lthcore.commands.parameters import values_of
from lthcore.errors import LabError, choose
from lthcore.paths import project_root
from lthcore.runs.experiments import Experiment
from lthcore.runs.notebook import passing_on_signals, unwatched

COLOURS = 256  # of images in executed notebooks


def notebook_command(options: argparse.Namespace) -> None:
    """Execute a notebook headless with its defaults, or other values of its parameters, and print what it prints."""
    source = Path(options.notebook)
    if not source.exists():
        raise LabError(f"notebook: there is no {source}")
    _content(source)
    executed = Path(options.to or f"build/{source.name}")
    values = values_of(options.parameter)
    _check_parameters(source, values)
    for cell in _execute(source, executed, values).cells:
        for output in cell.get("outputs", []):
            shown = output.get("data", {})
            text = output.get("text") or shown.get("text/markdown") or shown.get("text/plain", "")
            if "image/png" not in shown:
                print(text.rstrip())
    print(f"executed notebook: {executed}")


def run_notebook(experiment: Experiment, folder: Path) -> Path | None:
    """Execute an experiment's notebook over its finished run with papermill; return the executed copy.

    Returns None if the experiment has no notebook. The notebook's parameters cell need not list every setting, since
    `Settings.of_parameters` also reads the values that papermill inserts below it.
    """
    notebook, executed = notebook_of(experiment), folder / f"{experiment.variant}.ipynb"
    if notebook is None:
        return None
    values = experiment.settings.model_dump(mode="json")
    _execute(notebook, executed, values | {"folder": str(folder.resolve())})
    return executed


def is_executed(experiment: Experiment, folder: Path) -> bool:
    """Return whether the notebook of a run was executed to its end over the run's present tables."""
    executed = folder / f"{experiment.variant}.ipynb"
    if not executed.exists() or executed.stat().st_mtime < (folder / "rounds.csv").stat().st_mtime:
        return False
    try:
        told = _content(executed).get("metadata", {}).get("papermill", {})
    except LabError:  # cut short when papermill was killed
        return False
    return bool(told.get("end_time")) and not told.get("exception")


def notebook_of(experiment: Experiment) -> Path | None:
    """Return the notebook named like the folder of the params file, or None if there is none that takes parameters."""
    source = project_root() / "notebooks" / f"{experiment.notebook}.ipynb"
    if not source.exists():
        return None
    cells = _content(source)["cells"]
    return source if any("parameters" in cell["metadata"].get("tags", []) for cell in cells) else None


def has_jupyter() -> bool:
    """Return whether papermill and ipykernel, which execute notebooks, are installed."""
    return all(map(find_spec, ("papermill", "ipykernel")))


def check_jupyter() -> None:
    """Raise LabError if papermill or ipykernel is not installed."""
    if not has_jupyter():
        raise LabError("notebook: Jupyter and papermill are not installed here: pip install 'lthcore[notebooks]'")


def shrink_images(cells: list[dict]) -> None:
    """Reduce the PNG images in executed cells to COLOURS colours: figures look the same in a third of the bytes."""
    from lthcore.report.layout import with_colours  # matplotlib is slow to import

    for output in (output for cell in cells for output in cell.get("outputs", [])):
        if png := output.get("data", {}).get("image/png"):
            output["data"]["image/png"] = b64encode(with_colours(b64decode(png), COLOURS)).decode()


def _content(source: Path) -> dict[str, Any]:
    """Return the content of a notebook. Raises LabError for a file that is none."""
    try:
        content = json.loads(source.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        content = None
    if not isinstance(content, dict) or not isinstance(content.get("cells"), list):
        raise LabError(f"notebook: {source} is no Jupyter notebook")
    return content


def _check_parameters(source: Path, values: dict[str, Any]) -> None:
    """Raise LabError if a notebook has no such parameters: papermill would insert them all the same, to no effect."""
    if not values:
        return
    check_jupyter()
    from papermill.translators import PythonTranslator

    listed = [parameter.name for cell in _parameter_cells(source) for parameter in PythonTranslator.inspect(cell)]
    if not listed:
        raise LabError(f"notebook: {source} takes no parameters: none of its cells has the tag `parameters`")
    for name in values:
        choose(f"parameter of {source}", name, listed)


def _parameter_cells(source: Path) -> list[Any]:
    """Return the cells of a notebook with the tag `parameters`."""
    from papermill.iorw import load_notebook_node

    cells = load_notebook_node(str(source)).cells
    return [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]


def _execute(source: Path, executed: Path, values: dict):
    check_jupyter()

    import papermill
    from jupyter_client.kernelspec import NoSuchKernel
    from papermill.iorw import write_ipynb
    from traitlets.config import Config

    executed.parent.mkdir(parents=True, exist_ok=True)
    logging.getLogger("papermill").setLevel(logging.ERROR)  # it warns about parameters that a notebook does not list
    metadata = _content(source).get("metadata", {})
    spec = metadata.get("kernelspec", {})
    language = metadata.get("language_info", {}).get("name") or spec.get("language", "python")
    named = {"kernel_name": spec.get("name", "python3"), "language": language}  # some editors write neither
    try:
        # sockets are files, which need no free ports; their paths must be short, which a home folder need not be
        with TemporaryDirectory(prefix="lth-") as sockets, passing_on_signals() as kernel:
            by_files = Config({"KernelManager": {"transport": "ipc", "ip": f"{sockets}/kernel"}})
            notebook = papermill.execute_notebook(
                str(source), str(executed), values, progress_bar=sys.stderr.isatty(), kernel_manager_class=kernel,
                extra_arguments=unwatched(), cwd=str(source.parent), config=by_files, **named,
            )  # fmt: skip
        shrink_images(notebook.cells)
        write_ipynb(notebook, str(executed))
        return notebook
    except NoSuchKernel as error:
        raise LabError(
            f"notebook: {source} asks for the kernel {error.name!r}, which is not installed here; `jupyter kernelspec "
            "list` shows those there are, and any editor of notebooks can choose another"
        ) from None
    except papermill.PapermillExecutionError as error:
        raise LabError(
            f"notebook: {source} failed in cell {error.exec_count} with {error.ename}: {error.evalue}"
        ) from error
    except RuntimeError as error:  # DeadKernelError: the kernel was killed, often for lack of memory
        raise LabError(f"notebook: the kernel of {source} died ({error}); run the command again") from None
