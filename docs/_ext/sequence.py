"""Sequence diagrams of Mermaid drawn as SVG: only participants, messages and loops, as CONTRIBUTING's diagram needs.

An SVG works without an external script, in print, and in the colours of a light or a dark page.
"""

import re
from html import escape

COLUMN, ROW, TOP, MARGIN = 136, 34, 64, 76  # pixels
PARTICIPANT = re.compile(r"participant (\w+) as (.+)")
MESSAGE = re.compile(r"(\w+)(--?>>)(\w+): (.+)")


def drawn(mermaid: str) -> str:
    """Return the SVG of a diagram. Raises ValueError for an unknown line."""
    names, rows, loops, open_loops = {}, [], [], []
    for line in filter(None, map(str.strip, mermaid.splitlines())):
        if found := PARTICIPANT.fullmatch(line):
            names[found[1]] = (len(names), found[2])
        elif found := MESSAGE.fullmatch(line):
            rows.append((names[found[1]][0], names[found[3]][0], found[2] == "-->>", found[4]))
        elif line.startswith("loop "):
            open_loops.append((len(rows), line.removeprefix("loop ")))
            rows.append(None)  # space for its label
        elif line == "end":
            loops.append((*open_loops.pop(), len(rows)))
        elif line != "sequenceDiagram":
            raise ValueError(f"sequence diagram: {line!r} is not known here")
    width, height = 2 * MARGIN + COLUMN * (len(names) - 1) + 40, TOP + ROW * (len(rows) + 1)
    parts = [_participant(column, label, height) for column, label in names.values()]
    parts += [_loop(first, label, last, width) for first, label, last in loops]
    parts += [_message(row, *message) for row, message in enumerate(rows) if message]
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="How a training travels, call by call" '
        f'viewBox="0 0 {width} {height}" width="{width}" height="{height}">{"".join(parts)}</svg>'
    )


def _participant(column: int, label: str, height: int) -> str:
    x = MARGIN + column * COLUMN
    return (
        f'<line class="life" x1="{x}" y1="40" x2="{x}" y2="{height - 8}"/>'
        f'<rect class="box" x="{x - 62}" y="8" width="124" height="32" rx="5"/>'
        f'<text x="{x}" y="29" text-anchor="middle">{escape(label)}</text>'
    )


def _loop(first: int, label: str, last: int, width: int) -> str:
    y = TOP + first * ROW - 8
    return (
        f'<rect class="loop" x="6" y="{y}" width="{width - 12}" height="{(last - first) * ROW}" rx="5"/>'
        f'<text class="label" x="16" y="{y + 18}">{escape(label)}</text>'
    )


def _message(row: int, start: int, end: int, is_answer: bool, text: str) -> str:
    y, x1, x2 = TOP + row * ROW + 16, MARGIN + start * COLUMN, MARGIN + end * COLUMN
    if start == end:  # a message to itself
        return (
            f'<path class="own" d="M{x1} {y - 10} h22 v14 h-14"/><path class="head" d="M{x1} {y + 4} l9 -4.5 v9 z"/>'
            f'<text class="text" x="{x1 + 30}" y="{y}">{escape(text)}</text>'
        )
    towards = 1 if x2 > x1 else -1
    kind = "answer" if is_answer else "call"
    return (
        f'<line class="{kind}" x1="{x1}" y1="{y}" x2="{x2 - 7 * towards}" y2="{y}"/>'
        f'<path class="head" d="M{x2} {y} l{-9 * towards} -4.5 v9 z"/>'
        f'<text class="text" x="{(x1 + x2) / 2}" y="{y - 6}" text-anchor="middle">{escape(text)}</text>'
    )
