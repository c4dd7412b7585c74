"""Run all, as on Colab: every notebook, unedited, in an environment with this one's packages but without lthcore.

    python tests/colab.py [NOTEBOOK ...]

`google.colab` is a stub; the set-up cell clones this checkout, as last committed, and installs it. For each notebook a
line is printed with its seconds; the exit status is 1 where one failed.
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
    """A virtual environment with this one's packages but without lthcore, and with a stub of google.colab."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    python = folder / "venv" / "bin" / "python"
    site = Path(
        subprocess.check_output([python, "-c", "import site; print(site.getsitepackages()[0])"], text=True).strip()
    )
    packages = [p for p in sys.path if p.endswith("site-packages")]  # a path in a .pth file: its own .pth are not read
    (site / "these.pth").write_text("\n".join(packages) + "\n")
    if stub:  # as there, it is imported before the first cell
        (site / "google").mkdir()
        (site / "google" / "__init__.py").touch()
        (site / "google" / "colab.py").touch()
        (site / "zz_colab.pth").write_text("import google.colab\n")
    return python


def run_all(notebook: Path, python: Path, content: Path, repository: str) -> str:
    """What went wrong in a notebook, in its last line; empty where nothing did."""
    content.mkdir(parents=True)
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "LTH_RESULTS")}
    ran = subprocess.run(
        [python, "-c", RUN_ALL, notebook], cwd=content, text=True, capture_output=True, check=False,
        env=environment | {"LTH_REPOSITORY": repository},
    )  # fmt: skip
    return "" if ran.returncode == 0 else (ran.stderr.strip().splitlines() or [f"exit status {ran.returncode}"])[-1]


def main(names: list[str]) -> int:
    """Run these notebooks, or all of them. Returns 1 where one failed."""
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
