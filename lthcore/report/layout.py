"""Layout of figures in one style: their size, axes, captions and legends, and their files."""

import re
import textwrap
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator
from matplotlib.transforms import ScaledTranslation

from lthcore.report.run_tables import whole_trials
from lthcore.runs.files import read_record

STYLE = Path(__file__).with_name("lth.mplstyle")
WIDTHS = {1: 5.5, 2: 7.5, 3: 9.5, 4: 11.0}  # panels per row -> figure width in inches: text stays legible at 600 pixels
LABEL = 0.4  # width of a tick label in inches, with some margin
TICKS = (100, 41.1, 16.9, 7.0, 2.9, 1.2, 0.5, 0.2)  # % of weights remaining, as on the paper's axes
APART = 3.0  # points between neighbouring error bars that would hide each other
BARS, BANDS = "bars: range of trials", "bands: range of trials"
CUT_OFF = "cut off"  # id of the markers of early stops that training may have ended before
IN_DECADES = "in decades"  # id of vertical axes of early stops that are logarithmic
CUT_BELOW = "cut below"  # id of panels whose lines may leave them below


def new_figure(rows: int, columns: int, size: tuple[float, float] | None = None) -> tuple[Figure, np.ndarray]:
    """Return an empty figure in the common style, and its panels as a flat array.

    `size` is in inches; by default it follows from the number of panels.
    """
    plt.style.use(STYLE)
    size = size or (WIDTHS.get(columns, 2.75 * columns), 3.0 * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    return figure, axes.ravel()


def sparsity_axis(axes: Axes) -> None:
    """Make the x-axis a labelled, falling logarithmic axis of weights remaining, with ticks at points of the lines.

    It reaches from the largest to the smallest of these points, which have ticks. If the lines have points near four or
    more of the paper's ticks (TICKS), these are the other ticks.
    """
    axes.set_xscale("log")
    drawn = [line.get_xdata() for line in axes.lines if line.get_transform() == axes.transData]
    levels = sorted({float(x) for x in np.concatenate([*drawn, []]) if x > 0}, reverse=True) or [100.0, 1.0]
    highest, lowest = levels[0], levels[-1]
    axes.set_xlim(1.1 * highest, lowest / 1.1)
    nearest = {tick: min(levels, key=lambda level: abs(level - tick)) for tick in TICKS}
    papers = [level for tick, level in nearest.items() if abs(level / tick - 1) < 0.03]
    place = axes.get_subplotspec()
    wide = 0.8 * axes.figure.get_figwidth() / (place.get_gridspec().ncols if place else 1)  # inches, approximately
    apart = (highest / lowest) ** (LABEL / wide)  # smallest ratio of neighbouring ticks whose labels do not touch
    axes.set_xticks(_thinned(papers if len(papers) > 3 else levels, apart, lowest))
    digits = "{:.1f}" if len(papers) > 3 else "{:.3g}"
    axes.xaxis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:.3g}" if tick > 99.9 else digits.format(tick)))
    axes.minorticks_off()
    axes.set_xlabel("% of weights remaining")


def spread_bars(axes: Axes) -> None:
    """Shift lines with error bars to the right and left, by points, so that bars at the same x do not hide each other.

    `sparsity_axis` must be called before. The axis is made longer, by a twentieth at each end.
    """
    left, right = axes.get_xlim()
    axes.set_xlim(left * (left / right) ** 0.05, right / (left / right) ** 0.05)
    for i, series in enumerate(axes.containers):
        points = APART * (i - (len(axes.containers) - 1) / 2)
        shift = ScaledTranslation(points / 72, 0, axes.figure.dpi_scale_trans)
        for artist in series.get_children():
            artist.set_transform(artist.get_transform() + shift)


def in_percent(axis: Axis) -> None:
    """Label the shares on an axis in percent, with as many digits as they need."""
    axis.set_major_formatter(FuncFormatter(lambda share, _: f"{round(100 * share, 6):g}%"))


def in_thousands(axis: Axis) -> None:
    """Label the whole numbers on an axis with separators of thousands, as in the text."""
    axis.set_major_formatter("{x:,.0f}")


def in_decades(axes: Axes) -> None:
    """Make the vertical axis of early stops logarithmic, with ticks at 1, 2 and 5 times powers of ten."""
    axes.set_yscale("log")
    axes.yaxis.set_gid(IN_DECADES)
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    in_thousands(axes.yaxis)
    axes.minorticks_off()


def cut_below(axes: Axes, accuracies: Iterable[float], sweep: bool = False) -> None:
    """Cut an axis of accuracies below if others fall so far that the differences between these cannot be seen.

    The axis is cut if these accuracies take less than a sixth of its height; in a sweep, if the lower half of them
    takes more than three times the height of the upper half. `captioned` says so.
    """
    low, middle, high = np.quantile(list(accuracies), (0, 0.5, 1))
    bottom, top = axes.get_ylim()
    if sweep and middle - low > 3 * (high - middle) > 0:
        axes.set_ylim(middle - 3 * (high - middle), high + 0.2 * (high - middle))
        axes.set_gid(CUT_BELOW)
    elif high > low and top - bottom > 6 * (high - low):
        axes.set_ylim(max(bottom, low - 1.5 * (high - low)), high + 0.2 * (high - low))
        axes.set_gid(CUT_BELOW)


def _thinned(levels: list[float], apart: float, last: float) -> list[float]:
    """Return some of these falling levels, and the `last`; neighbours differ by at least a factor `apart`."""
    shown = levels[:1]
    for level in levels[1:]:
        if shown[-1] / level >= apart and level / last >= apart:
            shown.append(level)
    return [*shown, last] if shown[-1] / last >= apart else shown


def caption_of(what: str, *folders: Path) -> str:
    """Return a caption: what the figure shows, the trials, iterations and precision of its runs, and their place."""
    return f"{what}; {size_of(*folders)}; tables: {place_of(*folders)}"


def describe(*folders: Path, size: str = "", spread: str = BARS) -> str:
    """Return a caption for runs: their `size` (default: `size_of`), what shows the spread, and their place."""
    if not all(map(read_record, folders)):
        return "no run.json beside this table: settings unknown"
    return f"{size or size_of(*folders)}; {spread}; tables: {place_of(*folders)}"


def size_of(*folders: Path) -> str:
    """Return the numbers of trials, iterations and test images of runs, and their precision if it is not float32."""
    settings = [read_record(folder).get("settings", {}) for folder in folders]
    steps, trials = ({*values} for values in ([s.get("iterations", 0) for s in settings], map(whole_trials, folders)))
    rounded = sorted({s["precision"] for s in settings if s.get("precision", "float32") != "float32"})
    counted = f"n = {span(trials)} trial{'s' * (trials != {1})}"
    images = {read_record(folder).get("n_test", 10_000) for folder in folders}
    tested = [f"{span(images)} test images"] if min(images) < 10_000 else []
    return ", ".join([f"{counted} of {span(steps)} iterations", *rounded, *tested])


def place_of(*folders: Path) -> str:
    """Return where the tables of runs are: the folder of a single run, or those that have several."""
    places = sorted({folder if len(folders) == 1 else folder.parent for folder in folders})
    return ", ".join("/".join(("results", *place.parts[-(3 if len(folders) == 1 else 2) :])) for place in places)


def span(numbers: set[float]) -> str:
    """Format a set of numbers as one number, or as "least to greatest"."""
    return f"{min(numbers):,} to {max(numbers):,}" if len(numbers) > 1 else f"{min(numbers):,}"


def captioned(figure: Figure, caption: str, absent: Iterable[str] = ()) -> Figure:
    """Add a caption, wrapped to the width of the figure, and return the figure.

    The caption also explains hollow markers and logarithmic axes of early stops, and cut axes, and lists what is
    `absent`.
    """
    hollow = any(artist.get_gid() == CUT_OFF for axes in figure.axes for artist in axes.collections)
    early = "hollow: in some trials the minimum validation loss is in the last twentieth of training" if hollow else ""
    cut = any(axes.get_gid() == CUT_BELOW for axes in figure.axes)
    below = "axes are cut: lower accuracies are not shown" if cut else ""
    wide = any(axes.yaxis.get_gid() == IN_DECADES for axes in figure.axes)
    decades = "early stops of a wide range are on a logarithmic axis" if wide else ""
    names = list(absent)
    named = ", ".join(names if len(names) <= 4 else [*names[:3], f"and {len(names) - 3} more"])
    missing = f"not in the table: {named}" if names else ""
    lines = textwrap.wrap(
        "; ".join(filter(None, (caption, early, decades, below, missing))), int(14.5 * figure.get_figwidth())
    )
    figure.supxlabel("\n".join(lines), fontsize=8.5, color="#666666")
    return figure


def titled(figure: Figure, title: str) -> Figure:
    """Add a title to the whole figure, such as the network and its data set, and return the figure."""
    look = {"size": 11.5, "weight": "bold"}
    if figure.legends:  # the layout would draw a legend above the panels over a title
        figure.legends[0].set_title(title, look)
        figure.legends[0].set_alignment("left")
    else:
        figure.suptitle(title, x=0.01, ha="left", **look)
    return figure


def legend_above(figure: Figure, handles: Iterable[Artist], labels: Iterable[str]) -> None:
    """Add one legend for all panels of a figure, above them so that it hides nothing."""
    labels = list(labels)
    entry = 0.6 + 0.07 * max(map(len, labels), default=0)  # width of an entry in inches
    across = max(1, min(len(labels), int(figure.get_figwidth() / entry)))
    figure.legend(list(handles), labels, loc="outside upper left", ncols=across)


def one_legend(figure: Figure) -> None:
    """Replace the legends of all panels, which have lines of the same names, by one above them."""
    handles = {}
    for axes in figure.axes:
        handles |= {label: h for h, label in zip(*axes.get_legend_handles_labels(), strict=True)}
        if legend := axes.get_legend():
            legend.remove()
    legend_above(figure, handles.values(), handles)


def save(figure: Figure, folder: str | Path, name: str) -> list[Path]:
    """Write a figure as SVG and PNG (equal figures give equal bytes), close it, and return the paths."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.{suffix}" for suffix in ("svg", "png")]
    with plt.style.context(STYLE):
        figure.savefig(paths[0], metadata={"Date": None})
        figure.savefig(paths[1])
    plt.close(figure)
    return paths


def with_colours(png: bytes, colours: int) -> bytes:
    """Return a PNG image with at most so many colours, which makes it much smaller and keeps its lines distinct."""
    from PIL import Image  # only needed in notebooks

    small = BytesIO()
    picture = Image.open(BytesIO(png)).convert("RGB").quantize(colours, Image.Quantize.MAXCOVERAGE)
    picture.save(small, "PNG", optimize=True)
    return small.getvalue()


def remove_old(folder: Path, managed: Iterable[str], drawn: Iterable[str]) -> list[str]:
    """Remove the SVG and PNG files of managed figures that were not drawn; return the names of the removed files.

    Besides the names in `managed`, all figures of the paper are managed (fig01, fig02, ...). Other files are kept.
    """
    managed, drawn = set(managed), set(drawn)
    old = [
        path
        for path in sorted(folder.glob("*"))
        if path.suffix in (".svg", ".png")
        and (path.stem in managed or re.fullmatch(r"fig\d\d", path.stem))
        and path.stem not in drawn
    ]
    for path in old:
        path.unlink()
    return [path.name for path in old]
