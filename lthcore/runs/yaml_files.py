"""Reading YAML from params/ and the command line as plain JSON values. Errors are one line with the position.

Dates are read as text. Tags, keys that are not text and duplicate keys are errors (YAML would silently take the last
duplicate). Anchors are allowed, as in `params/iterative_pruning/input_scaling.yaml`, but their expanded size is counted
before any value is constructed, because a few lines can expand to more than fits in memory.
"""

import math
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

from lthcore.errors import LabError, one_line, shown

LARGEST = 1 << 20  # bytes of a file: a hundred times the largest params file
MOST, DEEPEST = 100_000, 20  # limits: values after expanding anchors, and nested levels
TEXT, MERGE = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"
AS_TEXT = ("tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:value")


class _Loader(yaml.SafeLoader):
    """YAML loader for plain values. Raises YAMLError with the position for everything else."""

    yaml_implicit_resolvers = {  # noqa: RUF012  PyYAML keeps them on the class
        first: [(tag, pattern) for tag, pattern in some if tag not in AS_TEXT]
        for first, some in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.level = 0
        self.extents: dict[yaml.Node, tuple[int, int]] = {}  # number of values in a node after expansion, and its depth

    def compose_node(self, parent: yaml.Node | None, index: object) -> yaml.Node:
        """Return the next node, after checking its expanded size and depth."""
        event = self.peek_event()
        alias = isinstance(event, yaml.AliasEvent)
        if not alias and event.tag is not None:
            raise ComposerError(None, None, f"tags such as {event.tag} are not allowed here", event.start_mark)
        self.level += 1
        if self.level > DEEPEST:
            raise ComposerError(None, None, f"more than {DEEPEST} levels of lists and mappings", event.start_mark)
        node = super().compose_node(parent, index)
        self.level -= 1
        if alias and node not in self.extents:
            raise ComposerError(None, None, f"*{event.anchor} is within what it stands for", event.start_mark)
        if not alias:
            self.extents[node] = self._extent(node)
        size, depth = self.extents[node]
        if size > MOST or depth > DEEPEST:
            raise ComposerError(None, None, f"more than {MOST:,} values or {DEEPEST} levels of them", event.start_mark)
        return node

    def _extent(self, node: yaml.Node) -> tuple[int, int]:
        if isinstance(node, yaml.ScalarNode):
            return 1, 1
        pairs = isinstance(node, yaml.MappingNode)
        parts = [self.extents[n] for n in ([n for pair in node.value for n in pair] if pairs else node.value)]
        return 1 + sum(size for size, _ in parts), 1 + max((depth for _, depth in parts), default=0)

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        """Return a mapping, after checking that its keys are text and unique."""
        node, seen = super().compose_mapping_node(anchor), {}
        for key, _ in node.value:
            if key.tag not in (TEXT, MERGE):
                what = key.value if isinstance(key, yaml.ScalarNode) else "a list or mapping"
                raise ComposerError(
                    None, None, f"every key must be a name, and {what} is none (quote it if it is)", key.start_mark
                )
            if key.value in seen:
                first = seen[key.value].start_mark.line + 1
                message = f"{shown(key.value)} is there twice, first in line {first}"
                raise ComposerError(None, None, message, key.start_mark)
            seen[key.value] = key
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Return the value of a node, after checking that a number is finite and an integer has at most 64 bits."""
        try:
            value = super().construct_object(node, deep)
        except (ValueError, OverflowError):  # 0x_, or thousands of digits
            raise ConstructorError(None, None, f"{shown(node.value)} is no number", node.start_mark) from None
        if isinstance(value, float) and not math.isfinite(value):
            raise ConstructorError(None, None, f"{shown(node.value)} is no finite number", node.start_mark)
        if isinstance(value, int) and value.bit_length() > 64:
            raise ConstructorError(None, None, f"{shown(node.value)} is too large a number", node.start_mark)
        return value


def parse_yaml(text: str) -> Any:
    """Return the plain value of a YAML text. Raises LabError with line and column if it is not valid."""
    return deepcopy(_parsed(text))  # the cached value is read again for each profile; callers may change theirs


@lru_cache(maxsize=256)
def _parsed(text: str) -> Any:
    loader = None
    try:
        loader = _Loader(text)
        return loader.get_single_data()
    except yaml.MarkedYAMLError as error:  # str(error) also quotes the text around the position, which may be long
        said = ": ".join(part for part in (error.context, error.problem) if part)
        mark = error.problem_mark or error.context_mark
        where = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise LabError(f"{one_line(said)}{where}") from None
    except yaml.YAMLError as error:
        raise LabError(one_line(error)) from None
    finally:
        if loader is not None:
            loader.dispose()


def read_yaml(path: str | Path, kind: str, advice: str = "") -> Any:
    """Return the plain value in a YAML file.

    In errors, `kind` names the kind of file, and `advice` says what to do if it cannot be read. Raises LabError if the
    file cannot be read, is larger than LARGEST, or is not YAML of plain values.
    """
    content = _content(Path(path), kind, advice)
    if len(content) > LARGEST:
        raise LabError(f"{kind}: {path} is larger than {LARGEST >> 20} MB, which no such file is")
    try:
        return parse_yaml(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise LabError(f"{kind}: {path} is not YAML: byte {error.start} is not UTF-8") from None
    except LabError as error:
        raise LabError(f"{kind}: {path} is not YAML of plain values: {error}") from None


def _content(path: Path, kind: str, advice: str) -> bytes:
    """Return the bytes of a file, but at most one more than LARGEST."""
    try:
        if path.exists() and not path.is_file() and not path.is_dir():  # a pipe or device may never end
            raise LabError(f"{kind}: {path} is no regular file{advice}")
        with path.open("rb") as file:
            return file.read(LARGEST + 1)
    except OSError as error:
        raise LabError(f"{kind}: cannot read {path} ({error.strerror}){advice}") from None


def check_shape(value: Any, shape: Any, where: str) -> None:
    """Raise LabError, which begins with `where` and names the invalid part, unless a plain value has the type `shape`.

    `shape` is any type that pydantic knows. Values are not converted.
    """
    try:
        TypeAdapter(shape).validate_python(value, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        part = ".".join(map(str, first["loc"]))
        message = first["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
        raise LabError(f"{where}: {part and part + ' = '}{shown(first['input'])}: {message}") from None
