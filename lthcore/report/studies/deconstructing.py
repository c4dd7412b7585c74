"""Why tickets win: masks by other criteria, weights of other kinds (arXiv 1905.01067): figures and sentences."""

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from lthcore.arms import arm_of
from lthcore.report.comparisons import gaps, runs_of
from lthcore.report.plots import caption_of, captioned, new_figure, plot_arms
from lthcore.report.study import Study
from lthcore.report.tables import middle_and_last, name_of, untrained
from lthcore.runs.files import read_tables

# arm -> label, colour, line style
CRITERIA = {"oneshot": ("large final", "#1f5fa8", "-")} | {
    name: (arm_of(name).label, arm_of(name).colour, arm_of(name).style)
    for name in (
        "by_magnitude_same_sign", "by_magnitude_increase", "by_movement", "by_large_init_large_final",
        "by_magnitude_at_init", "by_random", "by_small_magnitude", "by_small_magnitude_at_init",
    )
}  # fmt: skip
WEIGHTS = {
    "oneshot": ("large final, rewound", "#1f5fa8", "-"),
    "by_magnitude-signed": ("its signs alone", "#2a9d8f", "-"),
    "oneshot_reinit": ("drawn anew", "#d1642a", "--"),
    "ticket": ("iterative ticket", "#222222", "-"),
}


def deconstructing(folder: Path, caption: str = "", frozen: Path | None = None) -> Figure:
    """A run of masks by criterion: trained, untrained, and with other weights.

    `frozen` is the same with pruned weights kept at their initial values instead of zero: what that changes.
    """
    rounds, curves = read_tables(folder)
    figure, panels = new_figure(1, 4 if frozen else 3, (16.5, 3.8) if frozen else None)
    column = "es_test_accuracy" if rounds["es_test_accuracy"].notna().any() else "final_test_accuracy"
    plot_arms(rounds, CRITERIA, column, panels[0], "Criteria, trained")
    plot_arms(untrained(curves), CRITERIA, "test_accuracy", panels[1], "Criteria, untrained: supermasks")
    plot_arms(rounds, WEIGHTS, column, panels[2], "What of the weights matters")
    panels[2].legend()
    if frozen:
        keys = ["arm", "trial", "draw", "round", "percent_left"]
        both = [table.set_index(keys)[column] for table in (read_tables(frozen)[0], rounds)]
        change = (both[0] - both[1]).dropna().mul(100).reset_index()
        plot_arms(change, CRITERIA, column, panels[3], "Frozen instead of zero")
        panels[3].yaxis.set_major_formatter(ScalarFormatter())
        panels[3].axhline(0, color="#888888", linewidth=0.8)
        panels[3].set_ylabel("change of test accuracy (points)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper")
    return captioned(figure, caption)


def deconstructing_lenet(root: Path) -> Figure | None:
    """LeNet on MNIST, pruned weights at zero, and beside them frozen."""
    runs = runs_of(root, "deconstructing")
    folder, frozen = runs.get("lenet_mnist-zero"), runs.get("lenet_mnist-frozen")
    if folder is None:
        return None
    return deconstructing(folder, caption_of("LeNet-300-100 on MNIST, bars: range of trials", folder), frozen)


def findings(root: Path) -> list[str]:
    """Masks of LeNet by criteria of the dense training, against the one-shot ticket's of as many weights."""
    runs, lines, at_zero = runs_of(root, "deconstructing"), [], {}
    for kind, where in (("zero", "at zero"), ("frozen", "frozen at their initial values")):
        folder = runs.get(f"lenet_mnist-{kind}")
        if folder is None:
            continue
        rounds, curves = read_tables(folder)
        start = 100 * curves[curves["iteration"] == 0].groupby(["arm", "round"])["test_accuracy"].mean()
        for k, left, by in middle_and_last(rounds):
            base, arms = by["oneshot"], {name_of(arm): by[arm] for arm in COMPARED if arm in by}
            at = f"Pruned weights {where}, {left:.3g}% of weights remaining"
            lines.append(f"{at}, against large final ({100 * base.mean():.2f}%): {gaps(arms, base)}.")
            if kind == "zero":  # frozen, an untrained network is the whole one under any mask
                knows = [f"{name_of(arm)} {start[arm, k]:.0f}%" for arm in ("oneshot", *COMPARED) if arm in by]
                lines.append(f"The same untrained: {', '.join(knows)}.")
                at_zero[k] = {"large final": base} | arms
            elif k in at_zero:
                lines.append(f"{at}, against at zero: {gaps({'large final': base} | arms, at_zero[k])}.")
    return lines


COMPARED = ("by_magnitude_same_sign", "by_magnitude_increase", "by_movement", "by_magnitude_at_init", "by_random",
            "by_small_magnitude")  # fmt: skip


STUDY = Study("deconstructing", {"deconstructing": deconstructing_lenet}, findings)
