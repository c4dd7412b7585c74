"""The rooms of lthcore: each imports only from itself and from rooms above it in CONTRIBUTING's table.

Rooms are the top-level modules and packages. Within a room there are no circular imports. `make rooms` prints the
rooms, the number of lines of each module, and the rooms that each room imports from.
"""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = ("IPython", "ipykernel", "papermill", "ray", "matplotlib", "seaborn", "numba", "pandas", "torch")


def modules() -> dict[str, Path]:
    """Return the path of every module of lthcore by its dotted name in the package, as in `masks` or `runs.folder`."""
    found = {path.relative_to(ROOT / "lthcore").with_suffix(""): path for path in (ROOT / "lthcore").rglob("*.py")}
    return {".".join(name.parts): path for name, path in found.items() if not name.name.startswith("__")}


def imported(path: Path) -> set[str]:
    """Return the modules of lthcore that a module imports, at the top or inside functions."""
    found, known = set(), modules()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("lthcore.") for alias in node.names if alias.name.startswith("lthcore.")}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            if node.module.split(".")[0] == "lthcore":
                inside = node.module.removeprefix("lthcore").lstrip(".")
                found |= {inside} | {f"{inside}.{alias.name}".lstrip(".") for alias in node.names}
    return found & known.keys()


def room_of(module: str) -> str:
    """Return the room of a module: its top-level package, or the module itself if it is at the top level."""
    return module.split(".")[0]


def order_of_rooms() -> list[str]:
    """Return the rooms in the order of CONTRIBUTING's table, which is the order of reading and of imports."""
    rows = re.findall(r"^\| `(\w+)(?:/|\.py)` \|", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    return list(rows)


def test_every_room_is_in_the_table_of_the_house():
    assert set(order_of_rooms()) == {room_of(module) for module in modules()}


def test_arrows_point_toward_the_core():
    rooms = order_of_rooms()
    for module, path in modules().items():
        for other in imported(path):
            assert rooms.index(room_of(other)) <= rooms.index(room_of(module)), f"{module} imports {other}"


@pytest.mark.parametrize("room", sorted({room_of(module) for module in modules() if "." in module}))
def test_no_circles_in_a_room(room):
    inside = {module: imported(path) for module, path in modules().items() if room_of(module) == room}
    left = {module: {other for other in others if other in inside} - {module} for module, others in inside.items()}
    while left:
        free = [module for module, others in left.items() if not others & left.keys()]
        assert free, f"these import each other: {', '.join(sorted(left))}"
        for module in free:
            del left[module]


def test_importing_lthcore_is_light():
    script = f"import sys, lthcore; print([name for name in {HEAVY} if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", script], text=True, cwd=ROOT) == "[]\n"


def drawing() -> str:
    """Return the text of `make rooms`: the rooms in order, their modules with line counts, and their imports."""
    rooms, lines = order_of_rooms(), []
    for room in rooms:
        inside = {module: path for module, path in modules().items() if room_of(module) == room}
        arrows = {room_of(other) for path in inside.values() for other in imported(path)} - {room}
        lengths = {module: len(path.read_text().splitlines()) for module, path in inside.items()}
        lines.append(f"{room:12} {sum(lengths.values()):5} lines   <- {', '.join(sorted(arrows, key=rooms.index))}")
        lines += [f"    {module:42} {n:4}" for module, n in lengths.items() if "." in module]
    return "\n".join(lines)


if __name__ == "__main__":
    print(drawing())
