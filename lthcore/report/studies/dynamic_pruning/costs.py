"""Dynamic and iterative pruning at equal sparsity and equal cost: figure and sentences."""

from pathlib import Path

from matplotlib.figure import Figure

from lthcore.arms import arm_of
from lthcore.report.costs import pruning_costs
from lthcore.report.layout import captioned, in_percent, legend_above, new_figure, span
from lthcore.report.sentences import gap

COLOURS = {  # method in the table of `pruning_costs` -> its colour
    "dynamic": arm_of("dynamic").colour,
    "iterative, rewound": arm_of("ticket").colour,
    "iterative, trained on": "#767676",
}
LABELS = {  # and its name in the figure and the sentences
    "dynamic": "dynamic pruning",
    "iterative, rewound": "iterative pruning with rewinding",
    "iterative, trained on": "iterative pruning with continued training",
}


def dynamic_costs(root: Path) -> Figure | None:
    """Dynamic and iterative pruning at equal sparsity: test accuracy against training iterations in all."""
    table = pruning_costs(root)
    if table.empty or table["method"].nunique() < 2:
        return None
    levels, sizes = sorted(table["sparsity"].unique()), set()
    figure, panels = new_figure(1, max(2, len(levels)))
    low, high = table["accuracy"].min(), table["accuracy"].max()
    for axes, sparsity in zip(panels, levels, strict=False):
        part = table[table["sparsity"] == sparsity]
        # budgets that are meant to be equal differ slightly, since rounds have a whole number of iterations
        budget = part["in all"].map(lambda n: float(f"{n:.2g}"))
        places = {b: i for i, b in enumerate(sorted(budget.unique()))}
        for i, (method, colour) in enumerate(COLOURS.items()):
            mine = part["method"] == method
            at = budget[mine].map(places) + 0.2 * (i - 1)
            axes.scatter(at, part.loc[mine, "accuracy"], s=18, color=colour, alpha=0.6)
            for b, values in part[mine].groupby(budget[mine])["accuracy"]:
                there = places[b] + 0.2 * (i - 1)
                axes.plot([there - 0.08, there + 0.08], [values.mean()] * 2, color=colour)
                sizes.add(len(values))
            axes.plot([], [], "o", color=colour, label=LABELS.get(method, method))
        exact = [part["in all"][budget == b] for b in places]
        axes.set_xticks(range(len(places)), [span({int(n) for n in of}).replace(" to", "\nto") for of in exact])
        axes.set(title=f"{sparsity:.1%} sparse", xlabel="total training iterations", ylabel="test accuracy at the end")
        axes.set_xlim(-0.5, len(places) - 0.5)
        axes.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
        in_percent(axes.yaxis)
    for axes in panels[len(levels) :]:
        axes.set_axis_off()
    legend_above(figure, *panels[0].get_legend_handles_labels())
    return captioned(
        figure,
        f"LeNet-300-100 on MNIST, one recipe for all; n = {span(sizes)} trials; dots: trials, bars: their means",
    )


def at_equal_cost(root: Path) -> list[str]:
    """Return sentences that compare dynamic with iterative pruning of LeNet at equal sparsity, by their cost."""
    costs, lines = pruning_costs(root), []
    for sparsity, part in costs.groupby("sparsity") if len(costs) else ():
        dynamic = part[part["method"] == "dynamic"].set_index("trial")
        if dynamic.empty:
            continue  # not run yet at this sparsity
        for (method, in_all), other in part[part["method"] != "dynamic"].groupby(["method", "in all"]):
            times = in_all / dynamic["in all"].iloc[0]
            cost = "equal cost" if abs(times - 1) < 0.05 else f"{times:.2g} times the cost"
            difference = gap(dynamic["accuracy"], other.set_index("trial")["accuracy"], part["classes"].iloc[0])
            lines.append(
                f"At {sparsity:.1%} sparsity, dynamic pruning instead of {LABELS[method]} at {cost} changes the final "
                f"test accuracy by {difference}."
            )
    return lines
