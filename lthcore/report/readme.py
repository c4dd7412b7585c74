"""The README's blocks: what the studies found, in sentences, between `<!-- found: STUDY ... -->` and `<!-- end -->`.

Differences are by trial, in points, with 95% intervals. Sentences whose tables are not there are left out.
"""

import re
from pathlib import Path

from lthcore.report.studies import STUDIES

BLOCK = re.compile(r"(<!-- found: ([a-z_ ]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def into_readme(readme: Path, root: Path) -> None:
    """Put the findings of the studies that each block names into it."""

    def written(block: re.Match) -> str:
        found = [line for name in block[2].split() for line in STUDIES[name].findings(root)]
        return block[1] + "".join(f"* {line}\n" for line in found or ["Not run yet."]) + block[3]

    readme.write_text(BLOCK.sub(written, readme.read_text(encoding="utf-8")), encoding="utf-8")
