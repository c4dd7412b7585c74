"""Plots: they show the values of the table and name what is missing, and equal tables give equal bytes."""

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import same_color

from lthcore.errors import LabError
from lthcore.paths import project_root
from lthcore.report import figure_specs, layout, paper_figures, plots, run_figures
from lthcore.report.curves import figure3, label_ends, legible, plot_curves
from lthcore.report.distributions import plot_distributions
from lthcore.report.plots import ARMS, series_of
from lthcore.report.scorecard_plot import plot_scorecard
from lthcore.runs import schemas
from lthcore.runs.status import find_sweep

mpl.use("Agg")
LEFT = (100, 51.2, 21.1, 7.0, 3.6, 1.9)  # percent of the weights left in rounds 0 to 5
TRIALS = 3
RUN = figure_specs.LENET


def tables(*arms: str, rounds: int = 6, trials: int = TRIALS) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return tables (rounds, curves) with known answers.

    Accuracies fall with the round and early-stop iterations rise; both rise with the square of the trial.
    """
    rows, points = [], []
    for a, arm in enumerate(arms):
        for trial in range(trials):
            for k in range(0 if arm == "ticket" else 1, rounds):
                where = {"arm": arm, "trial": trial, "draw": 0, "round": k, "percent_left": LEFT[k]}
                accuracy = round(0.95 - 0.01 * k - 0.05 * a + 0.01 * trial**2, 6)
                rows.append(
                    where
                    | dict.fromkeys(schemas.ROUNDS[4:], accuracy)
                    | {
                        "percent_left": LEFT[k],
                        "weights_left": 1000,
                        "seconds": 1.0,
                        "diverged": False,
                        "skipped": False,
                    }
                    | {"es_iteration": 1000 + 100 * k + 10 * trial**2, "iterations": 2000}
                )
                points += [
                    where | {"iteration": i, "val_loss": 1.0, "test_accuracy": accuracy - 0.02 * (i < 2000)}
                    for i in (0, 1000, 2000)
                ]
    return pd.DataFrame(rows, columns=schemas.ROUNDS), pd.DataFrame(points, columns=schemas.CURVES)


def distributions() -> pd.DataFrame:
    """Return distributions.csv: a triangle of three bins for each round, layer and quantity, higher in later rounds."""
    quantities = {
        q for spec in paper_figures.FIGURES.values() if spec.kind in ("distributions", "together") for q in spec.columns
    }
    return pd.DataFrame([
        {"round": k, "quantity": quantity, "layer": layer, "left": i * 0.1, "right": (i + 1) * 0.1, "count": count * k}
        for k in (3, 5) for quantity in sorted(quantities) for layer in ("fc1", "fc2", "output")
        for i, count in enumerate((1, 2, 1))
    ])  # fmt: skip


def write(root: Path, profile: str, *arms: str, run: str = RUN, **record) -> Path:
    folder = root / profile / run
    folder.mkdir(parents=True)
    for table, name in zip(
        (*tables(*arms), distributions()), ("rounds.csv", "curves.csv", "distributions.csv"), strict=True
    ):
        table.to_csv(folder / name, index=False)
    made = {"run_key": "lenet-mnist-0", "trainings_done": 33, "trainings_planned": 33, "settings": {"iterations": 2000}}
    record = made | record
    (folder / "run.json").write_text(pd.Series(record).to_json())
    return folder


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def drawn(axes: Axes, arm: str) -> dict[str, np.ndarray]:
    """Return what is drawn of an arm, by falling percentage: x, the means, and the low and high ends of the bars."""
    lines = [
        line for line in axes.lines if same_color(line.get_color(), ARMS[arm].colour) and len(line.get_xdata()) > 1
    ]
    [line] = [line for line in lines if line.get_linestyle() == ARMS[arm].style]
    order = np.argsort(-np.asarray(line.get_xdata()))
    bars = [bar for bar in axes.containers if same_color(bar.lines[2][0].get_color()[0], ARMS[arm].colour)]
    [segments] = [bar.lines[2][0].get_segments() for bar in bars]
    ends = sorted(((s[0][0], s[:, 1].min(), s[:, 1].max()) for s in segments), reverse=True)
    x, low, high = np.array(ends).T
    assert np.allclose(x, np.asarray(line.get_xdata(), float)[order])
    return {"x": x, "mean": np.asarray(line.get_ydata(), float)[order], "low": low, "high": high}


def expected(rounds: pd.DataFrame, arm: str, column: str) -> dict[str, np.ndarray]:
    """Return what `drawn` must find, from the table: every arm starts at the dense network, round 0 of the tickets."""
    part = rounds[(rounds["arm"] == arm) | ((rounds["arm"] == "ticket") & (rounds["round"] == 0))]
    by_round = part.groupby("round")[column]
    return {"x": np.array(LEFT), "mean": by_round.mean(), "low": by_round.min(), "high": by_round.max()}


def caption(figure) -> str:
    return " ".join(figure.get_supxlabel().split())  # undo the line breaks


def legend_of(figure) -> list[str]:
    """Return the names in the only legend of a figure, which is above its panels or in one of them."""
    [legend] = [*figure.legends, *(axes.get_legend() for axes in figure.axes if axes.get_legend())]
    return [text.get_text() for text in legend.get_texts()]


def lines_in(figure) -> int:
    return sum(len(axes.lines) for axes in figure.axes)


def test_a_distribution_with_nearly_all_values_in_its_first_bin_is_drawn():
    table = distributions().assign(count=lambda t: t["count"].where(t["left"] > 0, 100_000))
    quantities = next(spec.columns for spec in paper_figures.FIGURES.values() if spec.kind == "together")
    figure = plot_distributions(table, quantities, {3: 50.0, 5: 20.0}, together=True)
    assert all(0 < axes.get_xlim()[1] <= 0.15 for axes in figure.axes)


def test_without_a_validation_set_there_is_no_early_stop_and_its_panels_say_so():
    """A run without a validation set is valid: its figures show only the accuracies at the end of training."""
    rounds, curves = tables("ticket", "reinit")
    rounds = rounds.assign(**dict.fromkeys((name for name in rounds if name.startswith("es_")), np.nan))
    series = plots.series_of(rounds, ("ticket", "reinit"))
    empty = plots.panels(series, {"es_iteration": "How fast", "es_test_accuracy": "How well"})
    assert [axes.texts[0].get_text() for axes in empty.axes] == ["no validation set, so no early stop"] * 2
    half = plots.panels(series, {"es_iteration": "How fast", "final_test_accuracy": "How well"})
    assert lines_in(half) and legend_of(half) and not half.axes[1].texts
    whole = plots.figure4(rounds)
    assert [len(axes.texts) for axes in whole.axes] == [1, 1, 1, 0]
    assert lines_in(figure3(rounds, curves)) > 0


@pytest.mark.parametrize("column", ["es_iteration", "final_test_accuracy"])
@pytest.mark.parametrize("arm", ["ticket", "reinit"])
def test_lines_are_means_and_bars_reach_from_min_to_max(arm, column):
    rounds, _ = tables("ticket", "reinit")
    found = drawn(plots.plot_against_sparsity(rounds, column), arm)
    for name, values in expected(rounds, arm, column).items():
        assert np.allclose(found[name], values), name
    assert (found["high"] > found["mean"]).all()
    assert (found["mean"] > found["low"]).all()


def test_early_stops_at_the_end_of_training_are_hollow_and_the_caption_says_so():
    def hollow(figure):
        return [
            o for axes in figure.axes for a in axes.collections if a.get_gid() == "cut off" for o in a.get_offsets()
        ]

    rounds, _ = tables("ticket", "reinit")
    figure = plots.figure4(rounds, "a run")
    assert not hollow(figure) and "hollow" not in figure._supxlabel.get_text()
    assert "training ends" not in [text.get_text() for text in figure.axes[0].texts]
    rounds.loc[(rounds["arm"] == "reinit") & (rounds["round"] == 3) & (rounds["trial"] == 2), "es_iteration"] = 1900
    figure = plots.figure4(rounds, "a run")
    mean = rounds[(rounds["arm"] == "reinit") & (rounds["round"] == 3)]["es_iteration"].mean()
    assert np.allclose(hollow(figure), [(LEFT[3], mean)]) and "hollow" in figure._supxlabel.get_text()
    assert "training ends" in [text.get_text() for text in figure.axes[0].texts]
    assert figure.axes[0].get_ylim()[0] == 0 < 2000 < figure.axes[0].get_ylim()[1]
    rounds.loc[rounds["round"] == 4, ["percent_left", "es_iteration"]] = (LEFT[3], 1000)  # it skipped a round
    at = rounds[(rounds["arm"] == "reinit") & (rounds["percent_left"] == LEFT[3])]["es_iteration"].mean()
    assert np.allclose(hollow(plots.figure4(rounds, "a run")), [(LEFT[3], at)])


def test_trainings_of_two_lengths_in_one_panel_each_show_their_end():
    short = tables("ticket", trials=1)[0].assign(es_iteration=2000)
    long = tables("ticket", trials=1)[0].assign(es_iteration=3000, iterations=3000)
    pair = [*plots.series_of(short), *plots.series_of(long)]
    figure = plots.panels(pair, {"es_iteration": "Early stop"})
    ends = [line.get_ydata()[0] for line in figure.axes[0].lines if line.get_gid() == plots.TRAINING_ENDS]
    assert ends == [2000, 3000]
    assert figure.axes[0].get_ylim()[1] > 3000


@pytest.mark.parametrize(("latest", "scale"), [(1_900, "linear"), (40_000, "log")])
def test_early_stops_that_differ_by_a_large_factor_are_on_a_logarithmic_axis(latest, scale):
    """On a linear one, tickets that stop after half of the iterations would look like the dense network."""
    rounds, _ = tables("ticket", "reinit")
    rounds["iterations"] = 50_000
    rounds.loc[rounds["arm"] == "reinit", "es_iteration"] = latest
    axes = plots.plot_against_sparsity(rounds, "es_iteration")
    stops = rounds["es_iteration"]
    assert axes.get_yscale() == scale and axes.get_ylim()[0] < stops.min() <= stops.max() < axes.get_ylim()[1]


def test_trials_that_differ_by_a_weight_are_one_point():
    rounds, _ = tables("ticket")
    rounds["percent_left"] += 0.001 * rounds["trial"] * (rounds["round"] > 0)
    x = drawn(plots.plot_against_sparsity(rounds, "es_iteration"), "ticket")["x"]
    assert x == pytest.approx([LEFT[0], *(left + 0.001 for left in LEFT[1:])])


def test_arm_or_column_that_the_table_does_not_have_is_not_drawn():
    rounds, _ = tables("ticket", "reinit")
    assert [t.get_text() for t in plots.plot_against_sparsity(rounds, "es_iteration").get_legend().get_texts()] == [
        ARMS["ticket"].label,
        ARMS["reinit"].label,
    ]
    _, axes = plt.subplots()
    rounds["es_iteration"] = np.nan  # as without a validation set
    assert not plots.plot_against_sparsity(rounds, "es_iteration", axes=axes).lines


def test_sparsity_falls_along_a_logarithmic_axis():
    rounds, _ = tables("ticket")
    axes = plots.plot_against_sparsity(rounds, "es_iteration")
    assert axes.get_xscale() == "log"
    left, right = axes.get_xlim()
    assert left > 100 > LEFT[-1] > right
    _, axes = plt.subplots()
    linear = plots.plot_against_sparsity(rounds, "es_iteration", axes=axes, linear=True)
    assert linear.get_xscale() == "linear"
    assert linear.xaxis_inverted()


def test_curves_are_means_in_a_band_from_min_to_max():
    _, curves = tables("ticket", "reinit")
    axes = plot_curves(curves, [("ticket", 1), ("reinit", 1), ("random", 1), ("ticket", 9)])
    assert [line.get_label() for line in axes.lines] == [
        "51.2%",
        "51.2%, reinitialised",
    ]  # the others are not in the table
    for line, band, top in zip(axes.lines, axes.collections, (0.94, 0.89), strict=True):
        assert list(line.get_xdata()) == [0, 1000, 2000]
        mean = top + 0.05 / 3
        assert list(line.get_ydata()) == pytest.approx([mean - 0.02, mean - 0.02, mean])
        heights = band.get_paths()[0].vertices[:, 1]
        assert (heights.min(), heights.max()) == pytest.approx((top - 0.02, top + 0.04))


def test_the_looks_of_criteria_do_not_depend_on_what_was_imported_before():
    script = "from lthcore.report.plots import arm_of; look = arm_of('by_snip'); print(look.label, look.colour)"
    said = subprocess.check_output([sys.executable, "-c", script], text=True)
    assert said.split() == ["SNIP", "#3d8c5c"]


def test_curves_and_captions_know_the_arms_of_criteria():
    rounds, curves = tables("ticket", "by_snip")
    axes = plot_curves(curves, [("by_snip-fresh", 1), ("by_snip", 1)])
    assert [line.get_label() for line in axes.lines] == ["51.2%, by_snip"]
    assert axes.lines[0].get_linestyle() == "-"
    assert plots.absent(rounds, ("by_snip", "by_snip-fresh")) == ["SNIP, reinitialised"]


def test_a_curve_has_no_mean_where_only_some_of_its_trials_were_evaluated():
    _, curves = tables("ticket")
    early = curves[curves["trial"] == 0].assign(iteration=1500).drop_duplicates(["arm", "round", "iteration"])
    axes = plot_curves(pd.concat([curves, early]), [("ticket", 1)])
    assert list(axes.lines[0].get_xdata()) == [0, 1000, 2000]
    alone = plot_curves(pd.concat([curves[curves["trial"] == 0], early]), [("ticket", 1)])
    assert list(alone.lines[0].get_xdata()) == [0, 1000, 1500, 2000]


def test_figures_of_a_whole_table_say_only_what_they_are():
    rounds, curves = tables(*ARMS)
    three, four = figure3(rounds, curves, "n"), plots.figure4(rounds, "n")
    assert (caption(three), caption(four)) == ("n; labels: % of weights remaining", "n")
    for figure in (three, four):
        assert all(axes.lines and axes.get_title(loc="left") for axes in figure.axes)


def test_figure_1_holds_tickets_against_random_networks_alone(tmp_path):
    write(tmp_path, "cpu", *ARMS)
    figure = paper_figures.draw(1, tmp_path)
    assert legend_of(figure) == [ARMS["ticket"].label, ARMS["random"].label]
    assert "Conv-2 on CIFAR-10, Conv-4 on CIFAR-10, Conv-6 on CIFAR-10" in caption(figure)


def test_figures_with_missing_arms_are_drawn_and_say_so():
    rounds, curves = tables("ticket")
    for figure, missing in (
        (plots.figure4(rounds, "n"), ("reinit", "oneshot", "oneshot_reinit")),
        (figure3(rounds, curves, "n"), ("reinit",)),
    ):
        assert lines_in(figure) > 0
        assert caption(figure).startswith("n; ") and "not in the table: " in caption(figure)
        assert all(ARMS[arm].label in caption(figure) for arm in missing)


def test_figure_3_says_which_levels_are_missing():
    rounds, curves = tables("ticket", "reinit", rounds=3)
    assert caption(figure3(rounds, curves, "n")).endswith("; not in the table: 1.9%, 3.6%, 7.0%")


def test_names_at_the_ends_of_lines_stand_in_their_order_and_apart():
    _, axes = plt.subplots()
    for label, end in {"b": 0.5, "d": 0.9, "a": 0.49, "c": 0.51, "far below": -70, "unknown": np.nan}.items():
        axes.plot([0, 1], [0, end], label=label)
    axes.set_ylim(0, 1)
    axes.legend()
    label_ends(axes)
    assert axes.get_legend() is None
    names = [text.get_text() for text in axes.texts]
    assert names == ["far below", "a", "b", "c", "d"]
    height = 72 * axes.bbox.height / axes.figure.dpi
    places = [height * text.xy[1] + text.get_position()[1] for text in axes.texts]
    assert np.diff(places).min() > 10
    assert places[0] == 0 and places[-1] == pytest.approx(0.9 * height)  # labels with enough room are not moved
    assert np.mean(places[1:4]) == pytest.approx(0.5 * height)  # the others are spread around their mean


def test_figure_without_a_validation_set_still_tells_its_arms_apart():
    rounds, _ = tables("ticket", "reinit")
    rounds[[column for column in rounds if column.startswith("es_")]] = np.nan
    figure = plots.figure4(rounds)
    assert legend_of(figure) == [ARMS[arm].label for arm in ("ticket", "reinit")]


def test_same_table_gives_the_same_bytes_as_svg_and_png(tmp_path):
    rounds, curves = tables("ticket", "reinit", "random")
    for folder in ("one", "two"):
        paths = layout.save(figure3(rounds, curves, "caption"), tmp_path / folder / "deep", "figure")
        assert [path.name for path in paths] == ["figure.svg", "figure.png"]
    assert not plt.get_fignums()  # saved figures are closed
    for suffix in ("svg", "png"):
        one, two = ((tmp_path / folder / "deep" / f"figure.{suffix}").read_bytes() for folder in ("one", "two"))
        assert len(one) > 10_000
        assert one == two


def test_largest_profile_with_tables_wins(tmp_path):
    assert paper_figures.largest_run(tmp_path, RUN) is None
    for profile in ("smoke", "cpu", "paper"):
        folder = write(tmp_path, profile, "ticket", "reinit", "random")
        assert paper_figures.largest_run(tmp_path, RUN) == folder
        if profile == "smoke":
            assert paper_figures.draw(4, tmp_path) is None  # a smoke run only shows that the code works
            continue
        said = f"n = 3 trials of 2,000 iterations; bars: range of trials; tables: results/{profile}/{RUN}"
        assert said in caption(paper_figures.draw(4, tmp_path))
    (folder / "rounds.csv").unlink()
    assert paper_figures.largest_run(tmp_path, RUN) == tmp_path / "cpu" / RUN


def test_the_papers_figures_wait_for_a_whole_trial(tmp_path):
    """A search on its way has only the first points of its lines; `lth figures RUN` draws them."""
    small = write(tmp_path, "cpu", "ticket", "reinit", "random")
    last = int(tables("ticket")[0]["round"].max())
    large = write(tmp_path, "paper", "ticket", "reinit", "random", settings={"iterations": 2000, "rounds": last + 1})
    assert paper_figures.largest_run(tmp_path, RUN) == small
    rounds = pd.read_csv(large / "rounds.csv")
    ended = (rounds["arm"] == "ticket") & (rounds["trial"] == 1) & (rounds["round"] == last)
    rounds.assign(diverged=rounds["diverged"] | ended).to_csv(large / "rounds.csv", index=False)
    assert paper_figures.largest_run(tmp_path, RUN) == large


def test_captions_of_any_run_say_how_much_of_it_is_done(tmp_path):
    folder = write(tmp_path, "cpu", "ticket", "reinit", "random", trainings_done=20)
    assert all("20 of 33 trainings done" in caption(f) for f in run_figures.figures_of(folder).values())
    whole = write(tmp_path, "paper", "ticket", "reinit", "random")
    assert all("trainings done" not in caption(f) for f in run_figures.figures_of(whole).values())


def test_the_runs_of_a_sweep_are_drawn_together_and_found_by_its_name(tmp_path, monkeypatch):
    monkeypatch.setenv("LTH_RESULTS", str(tmp_path))
    for profile, label in (("smoke", "low"), ("cpu", "low"), ("cpu", "high")):
        write(tmp_path, profile, "ticket", "reinit", run=f"my_lab/rates-{label}")
    write(tmp_path, "cpu", "ticket", run="my_lab/rates-low-batch_size32-0a1b2c3d")  # lth run -p batch_size 32
    sweep = find_sweep("rates")
    assert sweep == {label: tmp_path / "cpu/my_lab" / f"rates-{label}" for label in ("high", "low")}
    assert find_sweep("smoke/my_lab/rates").keys() == {"low"} and find_sweep("my_lab/other") == {}
    figure = run_figures.figure_of_runs(sweep)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["high", "low"]
    assert "n = 3 trials of 2,000 iterations" in caption(figure)
    for label in ("90", "98"):
        write(tmp_path, "cpu", "dynamic", run=f"dynamic_pruning/mine-{label}")
    figure = run_figures.figure_of_runs(find_sweep("mine"))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["90", "98"]
    write(tmp_path, "cpu", "ticket", run="their_lab/rates-low")
    with pytest.raises(
        LabError, match="several sweeps are called 'rates', name one of them: my_lab/rates, their_lab/rates"
    ):
        find_sweep("rates")
    write(tmp_path, "cpu", "ticket", run="my_lab/rates")
    assert find_sweep("my_lab/rates") == find_sweep(".") == {}  # a run has this name itself, or is in this folder


def test_runs_that_are_drawn_together_are_told_apart_by_their_settings(tmp_path):
    about = {"dataset": "mnist", "iterations": 2000, "learning_rate": 0.1, "trials": 3}
    first = write(tmp_path, "cpu", "ticket", "reinit", run="my_lab/rates", settings=about)
    second = write(tmp_path, "cpu", "ticket", run="my_lab/fast", settings=about | {"learning_rate": 0.2, "trials": 2})
    runs = run_figures.compared([first, second])
    assert runs == {"learning rate 0.1": first, "learning rate 0.2": second}
    lines = [text.get_text() for text in run_figures.figure_of_runs(runs).legends[0].get_texts()]
    assert lines == ["learning rate 0.1", "learning rate 0.2"]
    same = write(tmp_path, "paper", "ticket", run="my_lab/rates", settings=about)
    assert run_figures.compared([first, same]) == {"cpu/my_lab/rates": first, "paper/my_lab/rates": same}
    other = write(tmp_path, "cpu", "ticket", run="my_lab/digits", settings=about | {"dataset": "digits"})
    with pytest.raises(LabError, match="these runs are on digits and mnist; draw only runs on one data set together"):
        run_figures.compared([first, other])


def test_no_figure_is_drawn_from_a_table_that_is_not_there(tmp_path):
    assert all(paper_figures.draw(name, tmp_path / "results") is None for name in paper_figures.FIGURES)
    assert not list(tmp_path.rglob("*.png"))
    assert not plt.get_fignums()


def test_a_profile_with_all_arms_goes_before_a_larger_one_without(tmp_path):
    write(tmp_path, "cpu", "ticket", "random")
    write(tmp_path, "paper", "ticket")
    assert paper_figures.largest_run(tmp_path, RUN).parts[-3] == "paper"
    assert paper_figures.largest_run(tmp_path, RUN, ("ticket", "random")).parts[-3] == "cpu"
    assert paper_figures.largest_run(tmp_path, RUN, ("ticket", "reinit")).parts[-3] == "paper"


def test_networks_on_different_data_have_panels_of_their_own(tmp_path):
    write(tmp_path, "paper", "ticket", "random", "reinit")
    write(tmp_path, "cpu", "ticket", "random", run="iterative_pruning/conv2_cifar10")
    figure = paper_figures.draw(1, tmp_path)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["lenet_mnist", "lenet_mnist", "conv2_cifar10", "conv2_cifar10"]
    assert legend_of(figure) == [ARMS["ticket"].label, ARMS["random"].label]
    assert "tables: results/cpu/iterative_pruning, results/paper/iterative_pruning" in caption(figure)
    last = paper_figures.draw(14, tmp_path)
    assert [axes.get_title(loc="left") for axes in last.axes] == ["lenet_mnist", "conv2_cifar10"]


def test_a_smoke_run_is_no_company_for_a_real_one(tmp_path):
    write(tmp_path, "cpu", "ticket", "random")
    write(tmp_path, "smoke", "ticket", "random", run="iterative_pruning/conv2_cifar10")
    figure = paper_figures.draw(1, tmp_path)
    assert "Conv-2 on CIFAR-10" in caption(figure)  # named as missing
    assert len(legend_of(figure)) == 2


@pytest.mark.parametrize(
    "name", ["paper/dynamic_pruning/lenet_mnist-98", "cpu/iterative_pruning/input_scaling-conv4-unit"]
)
def test_runs_without_pruned_rounds_have_figures(name):
    figure = run_figures.figures_of(project_root() / "results" / name)["rounds"]
    shown = [axes for axes in figure.axes if axes.axison]
    assert shown and all(axes.lines or axes.texts for axes in shown)
    plt.close("all")


def test_the_45_figures_of_the_paper_but_the_table_of_networks_are_there():
    assert set(paper_figures.FIGURES) == set(range(1, 46)) - {2}
    for spec in paper_figures.FIGURES.values():
        for run in spec.runs:
            assert paper_figures.params_of(run).exists()


@pytest.fixture(scope="module")
def all_tables(tmp_path_factory) -> Path:
    """Results root in which every run of every figure has tables."""
    root = tmp_path_factory.mktemp("all")
    for name in {
        name for spec in paper_figures.FIGURES.values() for run in spec.runs for name in paper_figures.variants(run)
    }:
        write(root, "paper", *ARMS, run=name)
    return root


@pytest.mark.parametrize("number", paper_figures.FIGURES)
def test_every_figure_is_drawn_from_tables_alone(number, all_tables):
    spec, figure = paper_figures.FIGURES[number], paper_figures.draw(number, all_tables)
    assert lines_in(figure) > 0 and "not in the table" not in caption(figure)
    used = [axes for axes in figure.axes if axes.axison]
    assert all(axes.lines and axes.get_title(loc="left") for axes in used)
    if spec.kind == "panels":
        assert len(used) == len(spec.columns)
        names = [name for run in spec.runs for name in paper_figures.variants(run)]
        assert len(legend_of(figure)) == len(names) * len(spec.arms)


def test_a_sweep_has_a_line_for_each_of_its_labels_with_the_means_of_its_table(all_tables):
    figure = paper_figures.draw(26, all_tables)
    assert legend_of(figure) == [f"learning rate {rate}" for rate in ("2.5e-5", "2e-4", "1.2e-3", "2e-3", "6.4e-3")]
    rounds, _ = tables(*ARMS)
    means = rounds[rounds["arm"] == "ticket"].groupby("round")["es_test_accuracy"].mean()
    lines = [line for line in figure.axes[1].lines if line.get_linestyle() == "-"]
    assert len(lines) == len(legend_of(figure))
    for line in lines:
        assert np.allclose(sorted(line.get_ydata()), sorted(means))


def test_distributions_are_densities(all_tables):
    for number, per_panel in ((15, 2), (19, 2)):
        for axes in paper_figures.draw(number, all_tables).axes:
            assert len(axes.lines) == per_panel
            for line in axes.lines:
                assert np.isclose(sum(line.get_ydata()) * 0.1, 1.0)


def test_degrees_are_cumulative_shares_of_units(all_tables):
    for axes in paper_figures.draw(21, all_tables).axes:
        for line in axes.lines:
            assert np.allclose(line.get_ydata(), [0, 0.25, 0.75, 1]) and np.allclose(
                line.get_xdata(), [0, 0.1, 0.2, 0.3]
            )


def test_no_figure_is_drawn_without_its_subject(tmp_path):
    """Figure 17 needs the arm that resamples surviving weights, Figure 18 a run with pruning at iteration 0."""
    write(tmp_path, "paper", "ticket", "reinit", "random")
    drawn = {number for number in paper_figures.FIGURES if paper_figures.draw(number, tmp_path)}
    assert {1, 3, 4} <= drawn and not {9, 17, 18, 25} & drawn
    assert paper_figures.lacking(17) == "no tables of resampled yet"
    write(tmp_path, "cpu", "ticket", run="iterative_pruning/lenet_mnist_at_init")
    assert paper_figures.draw(18, tmp_path) is not None
    subjects = {s.subject for s in paper_figures.FIGURES.values()} - {""}
    named = {name for s in paper_figures.FIGURES.values() for name in (*s.runs, *s.arms)}
    assert subjects <= named


def test_bands_of_intervals_are_those_of_the_means_and_ratios_of_trials():
    table = pd.DataFrame(
        {"trial": [0, 1, 2] * 2, "left": [50] * 3 + [20] * 3, "a": 0, "y": [1.0, 2, 3, 2, 2, 2], "z": 2.0}
    )
    axes = layout.new_figure(1, 1)[1][0]
    plots.plot_intervals(table, "left", "y", axes, "y", "black")
    plots.plot_intervals(table, "left", "y", axes, "y / z", "red", over="z")
    assert [list(line.get_ydata()) for line in axes.lines] == [[2, 2], [1, 1]]
    for band, factor in zip(axes.collections, (1, 0.5), strict=True):
        low, high = band.get_datalim(axes.transData).intervaly
        assert (low, high) == pytest.approx((factor * (2 - 4.303 / 3**0.5), factor * (2 + 4.303 / 3**0.5)), abs=1e-3)


@pytest.mark.parametrize(("lowest", "is_cut"), [(0.80, True), (0.96, False)])
def test_accuracies_far_below_those_of_tickets_are_cut_off_and_the_caption_says_so(lowest, is_cut):
    rounds, _ = tables("ticket", "random")
    of_tickets, spread = rounds["arm"] == "ticket", 0.001 * rounds["trial"]
    rounds["final_test_accuracy"] = spread + np.where(of_tickets, 0.97 + 0.01 * (rounds["round"] % 2), lowest)
    figure = plots.panels(series_of(rounds), {"final_test_accuracy": "Test accuracy"}, "a caption")
    bottom, top = figure.axes[0].get_ylim()
    assert (bottom > lowest) == is_cut and bottom < 0.97 and top > 0.98
    assert ("axes are cut: lower accuracies are not shown" in caption(figure)) == is_cut


def test_the_scorecards_figure_has_a_colour_for_each_grade():
    rows = [("L1", "reproduced", 1.0), ("L2", "undecided", 2.0), ("L3", "differs (by +3.00)", 5.0)]
    card = pd.DataFrame([
        {"id": name, "claim": name, "part": "size", "run": "a", "profile": "cpu", "grade": grade, "value": value,
         "low": value - 0.5, "high": value + 0.5, "tolerance": "[0, 2]"} for name, grade, value in rows
    ])  # fmt: skip
    axes = plot_scorecard(pd.concat([card, card.assign(profile=None)])).axes[0]
    assert axes.get_legend_handles_labels()[1] == ["reproduced", "undecided", "differs"]
    points = [c.get_offsets() for c in axes.collections if isinstance(c, PathCollection) and len(c.get_offsets())]
    assert [float(p[0][0]) for p in points] == [0, 1, 4]  # distance from the tolerance's middle, in half widths
    wide = card[card["id"] == "L2"].assign(high=9.0)  # an interval that ends off the axis
    points = [c.get_offsets() for c in plot_scorecard(wide).axes[0].collections if isinstance(c, PathCollection)]
    assert [float(p[0][0]) for p in points if len(p)] == [4, 1]
    names = [label.get_text()[:2] for label in axes.get_yticklabels()]  # from the bottom to the top
    assert names == ["L1", "L2", "L3"]  # claims graded by arithmetic have no profile and are not drawn
    card.loc[card["id"] == "L3", "tolerance"] = "[0, null]"  # no width to measure distances in
    axes = plot_scorecard(card).axes[0]
    assert [label.get_text()[:2] for label in axes.get_yticklabels()] == ["L1", "L2"]
    assert "not shown: L3, whose tolerances have one end" in axes.get_xlabel()


def test_ticks_are_where_points_are_and_say_so():
    rounds, _ = tables("ticket")
    lefts = {0: 100.0, 1: 40.8, 2: 17.2, 3: 7.13, 4: 2.94}
    rounds = pd.concat([rounds[rounds["round"] == 0].assign(round=k, percent_left=left) for k, left in lefts.items()])
    axes = plots.plot_against_sparsity(rounds, "final_test_accuracy")
    axes.figure.canvas.draw()
    assert [label.get_text() for label in axes.get_xticklabels()] == ["100", "40.8", "17.2", "7.1", "2.9"]
    assert list(axes.get_xticks()) == list(lefts.values())


@pytest.mark.parametrize("lefts", [[100 * 0.64**k for k in range(11)], [100 * 0.8**k for k in range(24)]])
def test_the_fewest_weights_have_a_tick(lefts):
    """A reader asks first how far a network was pruned; neighbouring labels must not touch."""
    rounds, _ = tables("ticket")
    dense = rounds[rounds["round"] == 0]
    rounds = pd.concat([dense.assign(round=k, percent_left=left) for k, left in enumerate(lefts)])
    axes = plots.plot_against_sparsity(rounds, "final_test_accuracy")
    axes.figure.canvas.draw()
    boxes = [label.get_window_extent() for label in axes.get_xticklabels()]
    assert axes.get_xticks()[-1] == min(lefts) and axes.get_xticklabels()[-1].get_text()
    assert all(one.x1 < other.x0 for one, other in pairwise(boxes))


def test_a_setting_that_falls_far_behind_does_not_make_the_others_of_a_sweep_look_alike():
    _, axes = plt.subplots()
    axes.set_ylim(0, 1)
    layout.cut_below(axes, [0.97, 0.972, 0.975, 0.98, 0.2, 0.96], sweep=True)
    assert 0.9 < axes.get_ylim()[0] < 0.96 and axes.get_gid() == layout.CUT_BELOW
    _, axes = plt.subplots()
    axes.set_ylim(0.955, 0.985)
    layout.cut_below(axes, [0.96, 0.97, 0.98], sweep=True)
    assert axes.get_gid() is None


def test_labels_of_light_lines_are_legible():
    """Black on white has a contrast of 21, and white on white of 1 (WCAG 2.2)."""
    assert legible("black") == (0, 0, 0)
    for colour in ("#9be564", "#e0c060", "white"):
        shade = legible(colour)
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in shade]
        assert 4.5 <= 1.05 / (0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05) < 5.5


def test_arms_of_ones_own_are_drawn_each_in_a_colour_of_its_own():
    rounds, _ = tables("ticket", "by_mine", "by_other")
    lines = series_of(rounds)
    assert [line.arm for line in lines] == ["ticket", "by_mine", "by_other"]
    assert len({line.colour for line in lines}) == 3 and lines[1].label == "mine"
