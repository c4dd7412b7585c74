"""The rooms of lthcore: each imports only from those before it, in the order that CONTRIBUTING gives."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def imported(path: Path) -> set[str]:
    """The rooms that a module imports when it is imported itself."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        for part in ast.walk(node) if isinstance(node, ast.Try) else [node]:
            if isinstance(part, ast.ImportFrom) and part.module == "lthcore":
                found |= {alias.name for alias in part.names}
            elif isinstance(part, ast.ImportFrom) and part.module.startswith("lthcore."):
                found.add(part.module.split(".")[1])
    return found


def test_arrows_point_downward():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    rooms = re.search(r"`(settings yaml_files .*?cli)`", text, re.DOTALL).group(1).split()
    modules = {path.stem: path for path in (ROOT / "lthcore").glob("*.py") if not path.stem.startswith("__")}
    assert set(rooms) == set(modules)
    for i, room in enumerate(rooms):
        assert imported(modules[room]) & set(rooms) <= set(rooms[:i]), room
