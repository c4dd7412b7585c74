"""YAML files: read as plain values, or refused in one short line with the position; none may expand without limit."""

import math
import os
import tempfile
from pathlib import Path

import hypothesis
import pytest
import yaml
from hypothesis import strategies as st

from lthcore.errors import LONGEST, LabError
from lthcore.paths import project_root
from lthcore.runs.yaml_files import LARGEST, check_shape, parse_yaml, read_yaml

TENFOLD = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
FILES = sorted((project_root() / "params").rglob("*.yaml"))


def refusal(text: str) -> str:
    with pytest.raises(LabError) as caught:
        parse_yaml(text)
    said = str(caught.value)
    assert "\n" not in said and said.isprintable() and len(said) <= LONGEST
    return said


class DatesAsText(yaml.SafeLoader):
    """PyYAML's safe loader, except that dates are text, as in `read_yaml`."""


DatesAsText.yaml_implicit_resolvers = {
    first: [pair for pair in pairs if not pair[0].endswith(":timestamp")]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_the_committed_files_hold_what_yaml_says_they_do_but_for_dates(path):
    assert read_yaml(path, "params") == yaml.load(path.read_text(), DatesAsText)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("trials: 1\nseed: 2\ntrials: 3", "'trials' is there twice, first in line 1 (line 3, column 1)"),
        ("{a: 1, a: 1}", "'a' is there twice"),
        ("a: &a {b: 1}\nc: {<<: *a, d: 1, d: 2}", "'d' is there twice"),
        ("a: !!int abc", "tags such as tag:yaml.org,2002:int are not allowed"),
        ("a: !!python/object/apply:os.system [id]", "tags such as"),
        ("a: !!binary aGk=", "tags such as"),
        ("a: ! 3", "tags such as"),
        ("a: 0x_", "'0x_' is no number (line 1, column 4)"),
        ("a: 0b_", "is no number"),
        (f"a: {'9' * 5000}", "is no number"),
        (f"a: 0x{'f' * 5000}", "is too large a number"),
        ("a: 100000000000000000000", "is too large a number"),
        ("a: .nan", "is no finite number"),
        ("a: 1.0e+999", "is no finite number"),
        ("1: a", "every key must be a name, and 1 is none"),
        ("yes: a", "every key must be a name, and yes is none"),
        ("~: a", "every key must be a name"),
        ("? [a]\n: b", "every key must be a name, and a list or mapping is none"),
        ("a: b: c", "line 1, column 5"),
        ("a: [1", "line 1"),
        ("a: *b", "undefined alias 'b'"),
        ("a: 1\n---\nb: 1", "single document"),
        ("a: \0", "#x0000"),
        ("<<: 3", "for merging"),
        ("a: &a [*a]", "*a is within what it stands for"),
        ("[" * 5000 + "]" * 5000, "more than 20 levels"),
        ("{a: " * 30 + "}" * 30, "more than 20 levels"),
        ("\n".join(" " * i + "a:" for i in range(500)), "more than 20 levels"),
        ("\n".join(["a0: &a0 [x]", *(f"a{i}: &a{i} [*a{i - 1}]" for i in range(1, 100))]), "20 levels"),
        ("\n".join(["a0: &a0 [x]", *TENFOLD]), "more than 100,000 values"),  # 10^9 values
        (
            "\n".join(["a0: &a0 {x: 1}", *TENFOLD]).replace("[", "{<<: [").replace("]", "]}"),
            "more than 100,000 values",
        ),
        ("k" * 5000 + ": [", "line 1"),
    ],
    ids=lambda value: value[:20].encode("unicode_escape").decode(),
)
def test_what_is_no_plain_value_is_one_line_that_says_where(text, said):
    assert said in refusal(text)


def test_dates_are_text_and_anchors_and_merges_stand_for_what_they_name():
    assert parse_yaml("{date: 2026-11-24, at: 2001-12-14 21:59:43.10}") == {
        "date": "2026-11-24",
        "at": "2001-12-14 21:59:43.10",
    }
    assert parse_yaml("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: *a") == {
        "a": {"x": 1, "y": 2},
        "b": {"x": 1, "y": 3},
        "c": {"x": 1, "y": 2},
    }


def is_plain(value: object) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) for key in value) and all(map(is_plain, value.values()))
    if isinstance(value, list):
        return all(map(is_plain, value))
    return value is None or isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value))


@hypothesis.given(st.text(st.sampled_from("ab01 :-?[]{},&*!|>'\"%@`\n\t~<.=_x#\0\u2028é"), max_size=60))
def test_any_text_is_plain_values_or_one_line(text):
    try:
        assert is_plain(parse_yaml(text))
    except LabError as error:
        assert "\n" not in str(error) and 0 < len(str(error)) <= LONGEST


@hypothesis.given(st.binary(max_size=60))
def test_any_bytes_are_plain_values_or_one_line_that_names_the_file(content):
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "some.yaml"
        path.write_bytes(content)
        try:
            assert is_plain(read_yaml(path, "params"))
        except LabError as error:
            assert "some.yaml" in str(error) and "\n" not in str(error)


def test_files_that_are_too_large_or_never_end_are_not_read(tmp_path):
    large = tmp_path / "large.yaml"
    large.write_bytes(b"#" * (LARGEST + 1))
    with pytest.raises(LabError, match="is larger than 1 MB"):
        read_yaml(large, "params")
    pipe = tmp_path / "pipe.yaml"
    os.mkfifo(pipe)  # opening it would wait for a writer
    with pytest.raises(LabError, match="no regular file"):
        read_yaml(pipe, "params")
    with pytest.raises(LabError, match="cannot read"):
        read_yaml(tmp_path, "params")


def test_a_shape_names_the_part_that_has_another():
    check_shape({"a": [1, 2]}, dict[str, list[int]], "file")
    with pytest.raises(LabError, match=r"^file: a\.1 = '2': must be a valid integer"):
        check_shape({"a": [1, "2"]}, dict[str, list[int]], "file")
