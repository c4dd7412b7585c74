"""Published results of dynamic pruning, and the results here beside them."""

from pathlib import Path

import pandas as pd

from lthcore.analysis.statistics import learned_anything
from lthcore.errors import choose
from lthcore.paths import project_root
from lthcore.report.finished_runs import runs_of, trainings_of
from lthcore.report.sentences import spread
from lthcore.runs.yaml_files import check_shape, read_yaml

PUBLISHED = ("dense", "first", "later", "spread", "n", "epochs")  # columns of published.yaml


def published(study: str) -> pd.DataFrame:
    """Return the published results of a study's experiments: a row for each variant (params/published.yaml).

    Empty if the project has no such file. Raises LabError if the file is invalid or does not have the study.
    """
    path = project_root() / "params" / "published.yaml"
    if not path.exists():
        return pd.DataFrame(columns=PUBLISHED, index=pd.Index([], dtype=str))
    studies = read_yaml(path, "published")
    check_shape(studies, dict[str, dict[str, dict[str, float]]], f"published: {path}")
    return pd.DataFrame.from_dict(studies[choose(f"published: {path}: study", study, studies)], orient="index")


def dynamic_summary(root: Path) -> pd.DataFrame:
    """Return the results of dynamic pruning: test accuracy in percent, true sparsity, and the published accuracy.

    There is a row for each experiment. Accuracies are read at the end of training. Mean and standard
    deviation are over its trials without those that are stuck at chance, which are counted separately. The table is
    empty if nothing has been run.
    """
    table = trainings_of(runs_of(root, "dynamic_pruning"))
    if table.empty:
        return table
    groups = table.groupby("variant")
    learned = table["final_test_accuracy"].where(learned_anything(table["final_test_accuracy"], table["classes"]))
    accuracy = 100 * learned.groupby(table["variant"]).agg(["mean", "std"])
    out = pd.DataFrame({
        "test accuracy (%)": [spread(mean, std) for mean, std in accuracy.itertuples(index=False)],
        "true sparsity (%)": (100 - groups["percent_left"].mean()).round(2),
        "asked for (%)": (100 * groups["sparsity"].first()).round(2),
        "n": groups.size(),
        "stuck at chance": learned.isna().groupby(table["variant"]).sum(),
        "seconds a training": groups["seconds"].mean().round(0).astype(int),
        "profile": groups["profile"].first(),
    }, index=accuracy.index)  # fmt: skip
    theirs = published("dynamic_pruning").reindex(out.index)
    out.insert(1, "published", [_published(row) for row in theirs.to_dict("records")])
    return out


def dynamic_missing(root: Path) -> list[str]:
    """Return the published experiments that have no finished run here, not counting smoke runs."""
    return sorted(set(published("dynamic_pruning").index) - set(runs_of(root, "dynamic_pruning")))


def _published(row: dict) -> str:
    parts = []
    if pd.notna(row.get("later")):
        parts.append(spread(row["later"], row["spread"]))
    if pd.notna(row.get("first")):
        parts.append(f"{row['first']:.2f} at 0% sparse")
    return ", ".join(parts)
