"""Run unedited notebooks from the first cell to the last, as "Run all" does on Colab, without lthcore installed.

    python tests/colab.py [NOTEBOOK ...]

`google.colab` is a stub. The set-up cell of a notebook clones this checkout (as last committed) and installs it. Prints
a line with the time in seconds for each notebook. The exit status is 1 if a notebook failed.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
RUN_ALL = """
import sys, nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": "."}}).execute()
"""


def fresh_environment(folder: Path, stub: bool) -> Path:
    """Create a virtual environment with this one's packages but without lthcore; return its Python interpreter.

    With `stub` it has an empty module google.colab.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    site = Path(
        subprocess.check_output([python, "-c", "import site; print(site.getsitepackages()[0])"], text=True).strip()
    )
    packages = [p for p in sys.path if p.endswith("site-packages")]  # .pth files inside, as lthcore's, are not read
    (site / "these.pth").write_text("\n".join(packages) + "\n")
    if stub:  # Colab imports it before the first cell, too
        (site / "google").mkdir()
        (site / "google" / "__init__.py").touch()
        (site / "google" / "colab.py").touch()
        (site / "zz_colab.pth").write_text("import google.colab\n")
    return python


def run_all(notebook: Path, python: Path, content: Path, repository: str) -> str:
    """Run a notebook in a new folder `content`; return the last line of its error output, or "" if it succeeded."""
    content.mkdir(parents=True)
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "LTH_RESULTS")}
    ran = subprocess.run(
        [python, "-c", RUN_ALL, notebook], cwd=content, text=True, capture_output=True, check=False,
        env=environment | {"LTH_REPOSITORY": repository},
    )  # fmt: skip
    return "" if ran.returncode == 0 else (ran.stderr.strip().splitlines() or [f"exit status {ran.returncode}"])[-1]


def main(names: list[str]) -> int:
    """Run these notebooks (default: all); return 1 if one failed, else 0."""
    notebooks = [ROOT / "notebooks" / f"{Path(name).stem}.ipynb" for name in names]
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        python = fresh_environment(Path(folder), stub=True)
        for notebook in notebooks or sorted((ROOT / "notebooks").glob("*.ipynb")):
            began = time.perf_counter()
            wrong = run_all(notebook, python, Path(folder) / "content" / notebook.stem, f"file://{ROOT}")
            failed += bool(wrong)
            print(f"{notebook.stem:30} {time.perf_counter() - began:4.0f} s  {wrong or 'ran through'}", flush=True)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
