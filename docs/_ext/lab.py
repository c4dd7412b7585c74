"""The Sphinx extension of this documentation: pages with tables in them, notebooks, figures and the API.

Pages are Jinja templates that call the functions of `tables`. Each build copies notebooks and figures beside the pages,
so that git holds them only once. In the copies a link replaces the badge, which is a picture from another site.
"""

import ast
import json
import re
import shutil
from pathlib import Path

import jinja2
import tables
from sphinx.application import Sphinx

ROOT, DOCS = tables.ROOT, tables.ROOT / "docs"
BADGE = re.compile(r"\[!\[Open in Colab\]\([^)]*\)\]\(([^)]*)\)")
LINK = re.compile(r"(?<!\!)\[([^\]]*)\]\((?!https?:|#|mailto:)([^)\s]+)\)")
UNREAD = ("__init__", "__main__", "conv_kernels", "sparse_kernels", "compiled")  # modules left out of the reference
SPECIAL = re.compile(r"([*|\\])|(?<=\w)_(?=\W|$)|<(?=\w)")


def setup(app: Sphinx) -> dict:
    """Register the extension; called by Sphinx."""
    app.connect("builder-inited", _prepare)
    app.connect("source-read", _render)
    app.connect("env-get-outdated", lambda app, env, added, changed, removed: _pages(env))
    app.connect("autodoc-process-docstring", _as_text)
    app.connect("autodoc-skip-member", _skip)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _pages(env: object) -> list[str]:
    """Return the pages that are rendered from tables, which Sphinx has to read again in every build."""
    return [name for name in env.found_docs if not name.startswith(("notebooks/", "reference/api/"))]


def _prepare(app: Sphinx) -> None:
    for name in ("figures", "notebooks", "reference/api"):
        (DOCS / name).mkdir(parents=True, exist_ok=True)
    rooms = _modules()
    for picture in (ROOT / "figures").glob("*.png"):
        _write(DOCS / "figures" / picture.name, picture.read_bytes())
    for notebook in (ROOT / "notebooks").glob("*.ipynb"):
        _write(DOCS / "notebooks" / notebook.name, _copied(notebook).encode())
    for room, modules in rooms.items():
        _write(DOCS / "reference" / "api" / f"{room}.md", _api(room, modules).encode())
    for copies in ("figures", "notebooks"):
        _remove_old(DOCS / copies, {path.name for path in (ROOT / copies).iterdir()})
    _remove_old(DOCS / "reference" / "api", {f"{room}.md" for room in rooms})


def _write(path: Path, content: bytes) -> None:
    """Write a file only if its content changes, so that a second build reads only changed files."""
    if not path.exists() or path.read_bytes() != content:
        path.write_bytes(content)


def _remove_old(folder: Path, names: set[str]) -> None:
    """Remove what an earlier build wrote into a folder of copies, unless it is one of the given names."""
    for path in folder.iterdir():
        if path.name not in names:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _copied(notebook: Path) -> str:
    """Return a notebook as a page, with its badge as a text link, full links to repository files, and folded set-up."""
    content = json.loads(notebook.read_text(encoding="utf-8"))
    for cell in content["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            source = BADGE.sub(rf"[Open in Colab](\1) · {tables.file(notebook, 'this notebook')}", source)
            cell["source"] = LINK.sub(_whole, source)
        elif source.startswith("# Set-up") or "parameters" in cell["metadata"].get("tags", ()):
            tags = cell["metadata"].get("tags", [])
            cell["metadata"]["tags"] = [*tags, "hide-input"] if "hide-input" not in tags else tags
    return json.dumps(content)


def _whole(link: re.Match) -> str:
    """Return a relative link of a notebook: unchanged to a notebook, with the full address to another file."""
    text, target = link.groups()
    path, _, _ = target.partition("#")
    if path.endswith(".ipynb") and "/" not in path:
        return link[0]
    place = (ROOT / "notebooks" / path).resolve()
    return f"[{text}]({tables.file(place, 'x').split('](')[1][:-1]})" if place.exists() else link[0]


def _render(app: Sphinx, name: str, source: list[str]) -> None:
    if name.startswith(("notebooks/", "reference/api/")):
        return
    pages = jinja2.Environment(undefined=jinja2.StrictUndefined, comment_start_string="{##", comment_end_string="##}")
    source[0] = pages.from_string(source[0]).render(**tables.PAGES)


def _modules() -> dict[str, list[str]]:
    """Return the modules of each room for the reference, by dotted name."""
    found: dict[str, list[str]] = {}
    for path in sorted((ROOT / "lthcore").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if path.stem not in UNREAD and ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))):
            found.setdefault(parts[1] if len(parts) > 2 else "core", []).append(".".join(parts))
    return found


def _api(room: str, modules: list[str]) -> str:
    parts = [f"# {'lthcore' if room == 'core' else f'lthcore.{room}'}", ""]
    for module in modules:
        parts += [f"## {module}", "", "```{eval-rst}", f".. automodule:: {module}", "```", ""]
    return "\n".join(parts)


def _skip(app: Sphinx, what: str, name: str, obj: object, skip: bool, options: object) -> bool | None:
    """Skip the attributes that pydantic adds to models."""
    return True if name.startswith("model_") else None


def _as_text(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Convert a docstring, plain text with code in backticks: escape other markup, and make drawings literal blocks."""
    text, prose = [], []
    for line in [*lines, ""]:
        is_drawing = line.startswith((" ", "\t"))
        if is_drawing and (prose or not text or not text[-1].startswith((" ", "\t"))):
            text, prose = [*text, *_escaped(prose), "", "::", ""], []
        elif not is_drawing and text and text[-1].startswith((" ", "\t")):
            text.append("")
        if is_drawing:
            text.append(line)
        else:
            prose.append(line)
    lines[:] = [*text, *_escaped(prose)]


def _escaped(prose: list[str]) -> list[str]:
    """Escape markup in prose, except code in backticks, which a letter may follow directly (`nn.Module`s)."""
    pieces = "\n".join(prose).split("`")
    for n, piece in enumerate(pieces):
        if n % 2 == 0:
            apart = "\\ " if n and re.match(r"\w", piece) else ""
            pieces[n] = apart + SPECIAL.sub(r"\\\g<0>", piece)
    return "`".join(pieces).split("\n")
