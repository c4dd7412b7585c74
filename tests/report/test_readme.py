"""README.md and results/README.md: numbers equal those of the committed tables, and links and commands exist."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
import scipy.stats

from lthcore.report import figure_specs, front_page
from lthcore.report.claims import scorecard
from lthcore.report.front_page import ORDER
from lthcore.report.readme import BLOCK, PAGES, write_pages
from lthcore.report.studies import STUDIES
from lthcore.report.tables import findings
from lthcore.runs.files import read_tables

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
RESULTS = (ROOT / "results" / "README.md").read_text()


def test_findings_are_those_of_the_committed_table():
    for sentence in findings(read_tables(ROOT / "results" / "paper" / figure_specs.LENET)[0]):
        assert f"* {sentence}\n" in RESULTS


def ahead(run: str, arm: str, column: str, sign: int) -> tuple[str, str]:
    """Return the most and fewest weights left (%) in the longest series of rounds where an arm beats the dense network.

    Means over trials are compared. A higher value is better with sign 1, a lower one with sign -1.
    """
    rounds, _ = read_tables(ROOT / "results" / run)
    dense = rounds[(rounds["arm"] == "ticket") & (rounds["round"] == 0)][column].mean()
    means = rounds[(rounds["arm"] == arm) & (rounds["round"] > 0)].groupby("round")[["percent_left", column]].mean()
    won = sign * means[column] > sign * dense
    rows = [part for _, part in means.groupby((~won).cumsum()[won])]
    wins = max(rows, key=len)
    return f"{wins['percent_left'].max():.1f}", f"{wins['percent_left'].min():.1f}"


def test_where_each_arm_is_ahead_is_what_the_table_says():
    text = " ".join(RESULTS.split())
    run = f"paper/{figure_specs.LENET}"
    earlier, better = ahead(run, "ticket", "es_iteration", -1), ahead(run, "ticket", "es_test_accuracy", 1)
    assert f"stop earlier than the dense network from {earlier[0]}% down to {earlier[1]}%" in text
    assert f"a higher test accuracy at that point from {better[0]}% down to {better[1]}%" in text
    earlier, better = ahead(run, "oneshot", "es_iteration", -1), ahead(run, "oneshot", "es_test_accuracy", 1)
    assert f"than random networks at {earlier[0]}-{earlier[1]}% of weights remaining" in text
    assert f"a higher test accuracy than both only at {better[0]}-{better[1]}%" in text


def test_every_study_has_an_answer_from_its_tables(tmp_path):
    for study in STUDIES.values():
        assert f"*{study.question}* {study.answer(ROOT / 'results')} |" in RESULTS
        assert f"* [{study.question}](notebooks/{study.name}.ipynb)\n" in README
        assert study.answer(tmp_path) == ""


def test_an_answer_is_the_mean_difference_of_the_trials():
    final = {}
    for name in ("dense", "78.9", "98"):
        rounds, _ = read_tables(ROOT / "results" / "paper" / "dynamic_pruning" / f"lenet_mnist-{name}")
        final[name] = rounds["final_test_accuracy"].to_numpy()
    moderate, hard = (100 * (final[name] - final["dense"]) for name in ("78.9", "98"))
    answer = STUDIES["dynamic_pruning"].answer(ROOT / "results")
    assert f"78.9% pruned {moderate.mean():+.2f} points" in answer
    low, high = scipy.stats.t.interval(0.95, len(hard) - 1, hard.mean(), scipy.stats.sem(hard))
    assert f"98% pruned {hard.mean():+.2f} [{low:+.2f}, {high:+.2f}]" in answer


def test_speed_is_that_of_the_committed_benchmarks():
    text = " ".join(RESULTS[RESULTS.index("## Speed") : RESULTS.index("## How pixels are scaled")].split())
    files = (ROOT / "results" / "benchmarks" / "cpu").glob("*.json")
    ratios = {path.stem: json.loads(path.read_text())["ratios"] for path in files}
    said = {
        ("protocol", "ours against the DataLoader loop"): "{:.1f} times a DataLoader loop",
        ("protocol", "ours against the tensor loop"): "{:.1f} times a tensor loop",
        ("roofline", "share of the step that is its floor"): "products, Adam update and gather alone take {:.0%}",
        ("roofline", "share of the matrix peak, evaluation"): "{:.0%} of the matrix peak",
        ("sparse", "sparse step against masked at 13.5% left"): "{:.1f} times at 13.5% of weights remaining",
        ("sparse", "sparse step against masked at 3.6% left"): "{:.1f} times at 3.6%",
        ("sparse", "sparse step against sparselab's at 13.5% left"): "{:.1f} times at 13.5% of weights remaining",
        ("sparse", "sparse step against sparselab's at 3.6% left"): "{:.1f} times at 3.6%",
        ("convolutions", "conv2: protocol in bfloat16 against before"): "gets {:.1f} times faster",
        (
            "convolutions",
            "conv2: protocol in bfloat16 against the plain loop",
        ): "is {:.1f} times as fast as the plain loop",
        ("scaling", "2 workers against one"): "{:.2f} times one",
        ("queue_ray", "2 Ray workers against one"): "{:.2f} times one worker",
        ("cohort", "K = 8 against one by one"): "{:.2f} times the speed of one by one",
        ("resnet_epoch", "ours, bfloat16 against the plain loop"): "{:.1f} times the plain float32 loop",
        ("resnet_epoch", "share of an epoch that an update of the mask takes"): "{:.2%} of an epoch",
        ("figure_cost", "measured against predicted"): "took {:.2f} times its estimate",
    }
    for (name, ratio), words in said.items():
        assert words.format(ratios[name][ratio]["value"]) in text
    for network in ("conv2", "conv4", "conv6", "resnet20", "resnet18", "vgg19"):
        form = {
            "bfloat16 step against before": "{:.2f} times",
            "bfloat16 step against the plain loop": "{:.1f} times",
            "bfloat16 step, share of the matrix peak": "{:.0%}",
            "bfloat16 evaluation against before": "{:.1f} times",
            "float32 evaluation against before": "{:.2f} times",
        }
        values = (form[name].format(ratios["convolutions"][f"{network}: {name}"]["value"]) for name in form)
        assert f"| {network} | {' | '.join(values)} |" in text
    for network in ("conv2", "conv4", "conv6", "resnet20", "resnet18"):
        measured = ("bfloat16 step", "float32 step", "bfloat16 evaluation", "float32 evaluation")
        names = [*(f"{name} against before" for name in measured), "bfloat16 step against the plain loop"]
        values = (f"{ratios['convolutions_avx2'][f'{network}: {name}']['value']:.1f} times" for name in names)
        assert f"| {network} | {' | '.join(values)} |" in text
    taken = [ratio["value"] for ratio in ratios["estimates"].values()]
    assert f"short runs took {min(taken):.2f} to {max(taken):.2f} times their estimate" in text
    queue = json.loads((ROOT / "results" / "benchmarks" / "cpu" / "queue_ray.json").read_text())
    assert f"a queue of {queue['experiments']} short LeNet experiments" in text


def test_what_compaction_saves_is_what_was_measured():
    record = json.loads((ROOT / "results" / "benchmarks" / "cpu" / "compaction.json").read_text())
    text = " ".join(RESULTS.split())
    said = {
        "neurons": ("with {:.1f}% of its weights remaining", "{:.1f} times as fast on 1,000 images"),
        "weights": ("With {:.1f}% remaining, pruned by single weights", "runs {:.1f} times as fast"),
    }
    for kind, (words, times) in said.items():
        row = [r for r in record["rows"] if r["pruned"] == kind and r["form"] == "compacted"][-1]
        assert words.format(row["weights left (%)"]) in text
        assert times.format(record["rows"][0]["1,000 images (ms)"] / row["1,000 images (ms)"]) in text
        assert f"{row['parameters'] / 1000:.0f} thousand" in text


def test_pages_say_what_their_tables_say(tmp_path, committed, card):
    named = [kind.partition(": ")[2] for _, kind, _ in BLOCK.findall(RESULTS) if kind.startswith("found: ")]
    assert sorted(" ".join(named).split()) == sorted([*STUDIES, "tickets", "convolutional"])
    (tmp_path / "results").mkdir()
    for page, text in zip(PAGES, (README, RESULTS), strict=True):
        (tmp_path / page).write_text(text)
    write_pages(tmp_path, committed, card)
    assert (tmp_path / "README.md").read_text() == README
    assert (tmp_path / "results" / "README.md").read_text() == RESULTS


def test_blocks_of_a_users_own_page_stay(tmp_path, committed, card):
    text = "<!-- toc -->\n* [one](#one)\n<!-- end -->\n<!-- a note -->\n"
    (tmp_path / "README.md").write_text(f"{text}<!-- front -->\nold\n<!-- end -->\n")
    write_pages(tmp_path, committed, card)
    written = (tmp_path / "README.md").read_text()
    assert written.startswith(f"{text}<!-- front -->\n**LeNet's smallest") and "old\n" not in written


def test_the_front_page_says_if_no_ticket_wins(card):
    nowhere = card["id"].isin(["L3", "L10e"]) & (card["part"] == "place")
    none = card.assign(value=card["value"].mask(nowhere & card["value"].notna(), 100.0))
    assert "**LeNet's smallest winning tickets** (L3) do not exist" in front_page.lead(none)
    assert any("(L10e) They gain test accuracy over dense and random networks at no size" in said
               for said in front_page.findings(none))  # fmt: skip


def test_the_front_page_is_read_in_a_minute():
    studies = README[README.index("<!-- questions -->") :]
    assert len(README.encode()) - studies.index("<!-- end -->") <= 7000  # without the list of studies, which may grow
    assert len(README.encode()) <= 8192
    for study in STUDIES:
        assert f"(notebooks/{study}.ipynb)" in README
    front = README[README.index("<!-- front -->") : README.index("<!-- end -->")]
    _, *answers = front.split("\n* ")  # the lead comes before all others, whatever its grade
    graded = [
        re.findall("|".join(ORDER), re.search(r" \*((?:Direction|Size|Place).+?)\* ", said)[1]) for said in answers
    ]
    worst = [min(map(ORDER.index, grades)) for grades in graded]
    assert len(worst) == 11 and worst == sorted(worst)  # results that differ from the paper come first


def test_the_ten_lines_of_python_find_a_ticket(capsys):
    code = README[README.index("```python\n") + 10 :]
    code = code[: code.index("```")].replace("iterations=500", "iterations=100").replace("rounds=5", "rounds=1")
    exec(code, {})
    assert len(re.findall(r"round [01], (?:ticket|reinit): test accuracy \d", capsys.readouterr().out)) == 3


@pytest.fixture(scope="module")
def card(committed):
    return scorecard(committed)


def test_scorecard_is_that_of_the_committed_tables(card):
    graded = pd.read_csv(ROOT / "results" / "claims.csv")
    pd.testing.assert_frame_equal(
        card.fillna({"unit": ""}), graded.fillna({"unit": ""}), check_dtype=False, rtol=1e-4, atol=2e-6
    )


def test_links_lead_somewhere():
    for page, text in zip(PAGES, (README, RESULTS), strict=True):
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            assert target.startswith("https://") or ((ROOT / page).parent / target).exists(), target


def test_commands_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`?make ([a-z]+)", README + RESULTS)) - {"lists", "tickets"} <= targets
    help_text = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {"quickstart", "test", "all", "lenet", "figures"} <= set(re.findall(r"make ([a-z]+)", help_text))


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize(
    ("target", "profile"), [("structure", "paper"), ("structure PROFILE=smoke", "smoke"), ("lenet", "cpu")]
)
def test_make_runs_the_profile_that_it_says(target, profile):
    said = subprocess.run(["make", "-n", *target.split()], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (command,) = (line for line in said.splitlines() if "lth run" in line)
    assert f"--profile {profile} " in command


def test_faults_are_those_of_the_committed_record():
    record = json.loads((ROOT / "results" / "faults.json").read_text())
    assert record["lost"] == 0 and record["tried"] == record["survived"] == sum(
        row["tried"] for row in record["faults"]
    )
    assert f"[{record['tried']} faults, nothing lost]" in RESULTS
