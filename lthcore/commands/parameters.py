"""The option `-p NAME VALUE` of `lth run` and `lth notebook`."""

from typing import Any

from lthcore.errors import LabError, shown
from lthcore.runs.yaml_files import parse_yaml


def values_of(pairs: list[list[str]]) -> dict[str, Any]:
    """Return name -> value for pairs of a name and a value in YAML. Raises LabError for other text, or a name twice."""
    values: dict[str, Any] = {}
    for name, text in pairs:
        if name in values:
            raise LabError(f"-p {name}: given twice")
        try:
            values[name] = parse_yaml(text)
        except LabError as error:
            said = f"the value is not YAML of plain values: {error} (quote a list: '[300, 100]')"
            raise LabError(f"-p {shown(name)} {shown(text)}: {said}") from None
    return values
