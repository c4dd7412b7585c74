"""The documentation: links lead to files, columns and variables are explained, built pages work in a browser."""

import functools
import http.server
import importlib
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from lthcore.runs.schemas import CURVES, ROUNDS

ROOT = Path(__file__).parents[1]
DOCS, BUILT = ROOT / "docs", ROOT / "build" / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if "api" not in path.parts)
LINK = re.compile(r"\]\((?!https?:|#|\{)([^)#\s]+)")
FILE = re.compile(r'\bfile\("([^"]+)"\)')
SHOWN = ("index", "paper", "house", "gallery/index", "gallery/figures", "notebooks/quickstart", "reference/columns")
WIDTHS = {"desktop": 1280, "phone": 390}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_links_of_a_page_lead_to_files(page):
    text = page.read_text()
    for link in LINK.findall(text):
        place = (page.parent / link).resolve()
        copied = ROOT / place.relative_to(DOCS)  # notebooks and figures are copied beside the pages
        assert place.exists() or (copied.exists() and copied.parent.name in ("notebooks", "figures")), link
    for path in FILE.findall(text):
        assert (ROOT / path).exists(), path


def test_every_page_is_in_the_table_of_contents():
    entries = re.findall(r"```\{toctree\}\n(.*?)```", (DOCS / "index.md").read_text(), re.DOTALL)
    listed = {line for block in entries for line in block.splitlines() if line and not line.startswith(":")}
    assert listed | {"index"} == {str(page.relative_to(DOCS).with_suffix("")) for page in PAGES}


def test_every_column_of_every_table_is_explained(committed):
    explained = {
        name: list(about["columns"]) for name, about in yaml.safe_load((DOCS / "_ext/columns.yaml").read_text()).items()
    }
    assert explained["rounds.csv"] == ROUNDS and explained["curves.csv"] == CURVES
    tables = {path.name: path for path in committed.glob("*/*/*/*.csv")}
    assert set(explained) == tables.keys()
    for name in explained.keys() - {"rounds.csv", "curves.csv"}:
        assert explained[name] == tables[name].read_text().splitlines()[0].split(","), name


def test_every_environment_variable_is_explained():
    code = [*(ROOT / "lthcore").rglob("*.py"), *(ROOT / "notebooks").glob("*.ipynb")]
    read = {name for path in code for name in re.findall(r"\bLTH_[A-Z]+\b", path.read_text())}
    assert read == set(re.findall(r"^\| `(LTH_[A-Z]+)`", (DOCS / "reference/environment.md").read_text(), re.MULTILINE))


def test_the_sequence_diagram_draws_every_message(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS / "_ext"))
    sequence = importlib.import_module("sequence")
    mermaid = re.search(r"```mermaid\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL)[1]
    drawing = sequence.drawn(mermaid)
    assert drawing.count('class="text"') == len(re.findall("->>", mermaid))
    with pytest.raises(ValueError, match="activate run"):
        sequence.drawn("sequenceDiagram\nactivate run")
    sys.modules.pop("sequence")


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    """Address at which the built documentation is served; tests that need it are skipped if it is not built."""
    if not (BUILT / "index.html").exists():
        pytest.skip("the documentation is not built: `make docs` builds it")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *words: object) -> None:
            """Log nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=BUILT)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def browser(site):
    """Headless Chromium, controlled by playwright."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS.keys())
def test_pages_fit_their_window_and_their_pictures_load(browser, site, width):
    page, wrong = browser.new_page(viewport={"width": width, "height": 900}), []
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    for path in SHOWN:
        page.goto(f"{site}/{path}.html")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        page.evaluate("document.querySelectorAll('img').forEach(picture => picture.loading = 'eager')")
        page.wait_for_function("[...document.images].every(picture => picture.complete)")
        assert not page.evaluate("[...document.images].filter(i => !i.naturalWidth).map(i => i.src)"), path
    assert not wrong
    page.close()


def test_the_search_finds_rewinding(browser, site):
    page = browser.new_page()
    page.goto(f"{site}/search.html?q=rewind")
    page.wait_for_selector("#search-results li a")
    found = page.eval_on_selector_all("#search-results li a", "links => links.map(link => link.getAttribute('href'))")
    assert any("rewinding_and_connectivity" in link for link in found)
    page.close()


def test_what_the_guide_to_ones_own_says_works(tmp_path, monkeypatch, capsys):
    """The guide's plugin and params file work as printed, from run to figures, and so does CONTRIBUTING's data set."""
    guide, contributing = ((ROOT / path).read_text() for path in ("docs/guide/your_own.md", "CONTRIBUTING.md"))
    plugin = re.search(r"```python\n(# lab\.py\n.*?)```", guide, re.DOTALL)[1]
    reader = re.search(r"```python\n(def read\(root.*?)```", contributing, re.DOTALL)[1]
    imports = "from pathlib import Path\nimport numpy as np\nfrom lthcore import Dataset, Raw, register_dataset\n"
    path, content = re.search(r"```yaml\n# (\S+)\n(.*?)```", guide, re.DOTALL).groups()
    (tmp_path / "notebooks").mkdir()
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text(content)
    (tmp_path / "lab.py").write_text(plugin + imports + reader)
    monkeypatch.chdir(tmp_path)
    for command in (
        ("run", path, "--profile", "smoke", "--no-notebook"),
        ("run", path, "--profile", "smoke", "--no-notebook", "-p", "dataset", "noise", "-p", "validation", "100"),
        ("list", "my_lab"),
        ("show", "rows-distance"),
        ("figures", "rows"),
        ("figures", "rows-distance"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "lthcore", *command, "--plugin", "lab.py"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "results/smoke/my_lab/figures/rows.png").exists()
    assert (tmp_path / "results/smoke/my_lab/rows-distance/figures/rounds.png").exists()
