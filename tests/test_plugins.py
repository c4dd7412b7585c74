"""Plugins: user-defined networks, criteria, arms and data sets, from their file to worker processes and tables."""

import importlib
import linecache
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from lthcore.arms import ARMS, arm_of
from lthcore.errors import LabError, TimeLimit
from lthcore.lottery.start import WEIGHTS, register_arm
from lthcore.models.layers import Dropout
from lthcore.plugins import extensions, load_plugins, register_received
from lthcore.registry import CRITERIA, MODELS, register_criterion, register_model
from lthcore.runs import executor
from lthcore.runs.archives import pack, unpack
from lthcore.runs.checkpoints import load_and_evaluate
from lthcore.runs.experiments import load_experiments
from lthcore.runs.files import read_record, read_tables
from lthcore.runs.folder import RunFolder
from lthcore.runs.runner import run
from lthcore.runs.user_code import digests_of_user_code
from lthcore.settings import DynamicSettings, Settings
from lthcore.sources.catalogue import dataset_of, read, verified
from lthcore.sources.dataset import DATASETS, Dataset, Raw, register_dataset
from lthcore.tickets.load import load_ticket

SMALL = Settings(
    dataset="digits", architecture="mlp", validation=200, iterations=20, eval_every=10, trials=1, rounds=1,
    arms=["ticket"], device="cpu",
)  # fmt: skip
NAN = float("nan")
LAB = """
from torch import nn
from lthcore import register_arm, register_criterion, register_model

@register_model
def tiny(settings, shape, classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, classes))

@register_criterion(label="images", colour="#123456")
def brightness(seen):
    pixels = seen.data.train.images.mean(0).flatten()
    final = {name: seen.final[name].abs() for name in seen.mask}
    first = next(iter(final))
    return final | {first: final[first] * pixels.abs()}

@register_arm(masks="oneshot", label="half the weights")
def halved(of):
    return {name: w / 2 for name, w in of.trial.theta_0.items()}
"""


@pytest.fixture(autouse=True)
def only_for_this_test():
    """Remove what a test has registered."""
    before = [(registry, dict(registry)) for registry in (MODELS, CRITERIA, ARMS, WEIGHTS, DATASETS)]
    yield
    for registry, content in before:
        registry.clear()
        registry.update(content)


def test_an_arm_of_ones_own_reaches_the_processes_that_check_settings():
    """Worker processes may change settings to build a network, and the check of settings looks up their arms."""

    @register_arm(masks="oneshot", label="half the weights")
    def halves(of):
        return of.trial.theta_0

    carried = extensions()
    ARMS.pop("halves")
    with pytest.raises(LabError, match="halves"):
        SMALL.changed(arms=["ticket", "halves"])
    register_received(carried)
    assert SMALL.changed(arms=["ticket", "halves"]).arms[1] == "halves"


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder with a plugin and digits in twelve classes: 4s and 9s with a heavier upper half are classes 10 and 11."""
    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 8, 8) * 15).astype(np.uint8)
    high = images[:, :4].sum((1, 2)) > images[:, 4:].sum((1, 2))
    labels = np.where(high & (labels == 4), 10, np.where(high & (labels == 9), 11, labels))
    np.savez(tmp_path / "twelve.npz", images=images, labels=labels)
    (tmp_path / "lab.py").write_text(LAB)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def load(lab: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Function that writes a plugin with this name and text, and runs it."""

    def load(name: str, text: str) -> None:
        (lab / name).write_text(text)
        monkeypatch.setenv("LTH_PLUGINS", str(lab / name))
        load_plugins()

    return load


def test_all_of_ones_own_is_trained_on_two_workers_and_written_to_tables(lab, monkeypatch):
    monkeypatch.setenv("LTH_PLUGINS", str(lab / "lab.py"))
    monkeypatch.setenv("LTH_WORKERS", "2")
    load_plugins()
    settings = Settings(
        dataset="twelve.npz", architecture="tiny", validation=100, iterations=300, eval_every=100, trials=1, rounds=1,
        arms=["ticket", "halved", "by_brightness"], learning_rate=5e-3, device="cpu",
    )  # fmt: skip
    rounds, _ = run(settings, lab / "run", quiet=True)
    assert list(rounds["arm"]) == ["ticket", "ticket", "halved", "by_brightness"]
    assert (rounds["final_test_accuracy"] > 0.7).all() and rounds["weights_left"].iloc[0] == 64 * 16 + 16 * 12
    assert read_record(lab / "run")["data"].startswith("twelve.npz: 1,498 train, 299 test, sha256 ")
    assert settings.key.startswith("tiny-twelve-")


def test_a_run_whose_own_code_has_changed_is_not_continued(lab, load):
    """Its key has the names of functions alone: two versions of one would be averaged in one table."""

    load("one.py", LAB)
    settings = SMALL.changed(architecture="tiny", arms=["ticket", "halved", "by_brightness"])
    run(settings, lab / "run", quiet=True)
    assert set(read_record(lab / "run")["own_code"]) == {"architecture tiny", "arm halved", "criterion brightness"}
    said = 'def halved(of):  # half\n    """Half the weights."""'
    load("two.py", LAB.replace("def halved(of):", said).replace("#123456", "#654321"))
    run(settings.changed(trials=2), lab / "run", quiet=True)
    load("three.py", LAB.replace("w / 2", "w * 50").replace("nn.ReLU", "nn.Tanh"))
    for asked in (settings.changed(trials=2), settings.changed(trials=3)):
        with pytest.raises(LabError, match=r"the code of architecture tiny, arm halved has changed since"):
            run(asked, lab / "run", quiet=True)
    assert len(run(settings, lab / "run", quiet=True, force=True)[0]) == 4


@pytest.mark.parametrize(
    "wrong", [("w / 2", "w / zero"), ("seen.data.train.images.mean(0)", "seen.images")], ids=["arm", "criterion"]
)
def test_own_code_that_fails_before_it_is_used_can_be_corrected(lab, load, wrong):
    """The dense networks, trained before any arm or criterion is called, need not be trained again."""
    load("one.py", LAB.replace(*wrong))
    settings = SMALL.changed(arms=["ticket", "halved", "by_brightness"])
    with pytest.raises(LabError, match="failed"):
        run(settings, lab / "run", quiet=True)
    (dense,) = (lab / "run/tickets").iterdir()
    trained = dense.stat().st_mtime_ns
    load("two.py", LAB)
    assert len(run(settings, lab / "run", quiet=True)[0]) == 4
    assert dense.stat().st_mtime_ns == trained and "trained_again" not in read_record(lab / "run")
    load("three.py", LAB.replace(*wrong))
    with pytest.raises(LabError, match="has changed since"):
        run(settings.changed(trials=2), lab / "run", quiet=True)


def test_own_code_that_fails_in_a_later_arm_is_corrected_alone(lab, load):
    """What the finished rounds used must stay as it was; an arm that was added to them may still be corrected."""
    load("one.py", LAB)
    run(SMALL.changed(arms=["ticket", "by_brightness"]), lab / "run", quiet=True)
    both = SMALL.changed(arms=["ticket", "by_brightness", "halved"])
    load("two.py", LAB.replace("w / 2", "w / zero"))
    with pytest.raises(LabError, match="arm 'halved' failed"):
        run(both, lab / "run", quiet=True)
    load("three.py", LAB.replace("w / 2", "w / 3").replace("pixels.abs", "pixels.sin"))
    with pytest.raises(LabError, match="the code of criterion brightness has changed since"):
        run(both, lab / "run", quiet=True)
    load("four.py", LAB.replace("w / 2", "w / 3"))
    assert len(run(both, lab / "run", quiet=True)[0]) == 4


def test_a_run_of_other_own_code_is_not_unpacked_over_one_that_is_here(lab, monkeypatch):
    """Both have the same key, which has names of functions alone; without the code, other runs are unpacked still."""

    def load(text: str) -> None:
        (lab / "own.py").write_text(text)
        monkeypatch.setenv("LTH_PLUGINS", str(lab / "own.py"))
        load_plugins()

    theirs, ours, name = lab / "theirs", lab / "ours", "smoke/iterative_pruning/own"
    load(LAB)
    run(SMALL.changed(arms=["ticket", "halved"]), theirs / name, quiet=True)
    run(SMALL, theirs / "smoke/iterative_pruning/plain", quiet=True)
    pack(theirs, lab / "tables.tar.gz", "smoke")
    load(LAB.replace("w / 2", "w / 3"))
    run(SMALL.changed(arms=["ticket", "halved"], rounds=0), ours / name, quiet=True)
    before = (ours / name / "rounds.csv").read_bytes()
    assert unpack(lab / "tables.tar.gz", ours) == [
        f"{name}: left alone: it had other code of arm halved than the run that is here",
        "smoke/iterative_pruning/plain: new (2 trainings)",
    ]
    assert (ours / name / "rounds.csv").read_bytes() == before
    ARMS.pop("halved")
    needed, there = unpack(lab / "tables.tar.gz", lab / "elsewhere")
    assert needed == f"{name}: left alone: it needs arm halved; give the code with --plugin FILE"
    assert there.endswith("plain: new (2 trainings)")


def test_the_constants_that_own_code_refers_to_are_part_of_it(tmp_path, monkeypatch):
    text = """
from types import SimpleNamespace
from torch import nn
import parts
from lthcore import register_arm, register_model
WIDTH, UNUSED, DEPTHS = 16, 1, {"deep": [2, 3]}

def network(width):
    def sized(settings, shape, classes):
        "A network of one hidden layer."
        layers = [nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, classes)]
        return nn.Sequential(*layers[: 4 * len(DEPTHS)], *[nn.Identity()] * parts.EXTRA)
    return register_model(sized)

network(WIDTH)

@register_arm(masks="ticket")
def half(of):
    return {name: w / 2 for name, w in of.trial.theta_0.items()}
"""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def digests(*changes: tuple[str, str], extra: int = 0) -> dict[str, str]:
        changed = text
        for old, new in changes:
            assert old in changed
            changed = changed.replace(old, new)
        file = tmp_path / f"lab{len([*tmp_path.iterdir()])}.py"
        file.write_text(changed)
        (tmp_path / "parts.py").write_text(f"EXTRA = {extra}\n")
        monkeypatch.delitem(sys.modules, "parts", raising=False)
        importlib.invalidate_caches()
        monkeypatch.setenv("LTH_PLUGINS", str(file))
        load_plugins()
        return digests_of_user_code(SMALL.changed(architecture="sized", arms=["ticket", "half"]))

    first = digests()
    assert set(first) == {"architecture sized", "arm half"}
    assert digests(("UNUSED, DEPTHS = 16, 1", "UNUSED, DEPTHS = 16, 2"), ("one hidden layer", "16 neurons")) == first
    for changed in (
        digests(("WIDTH, UNUSED, DEPTHS = 16", "WIDTH, UNUSED, DEPTHS = 17")),  # a variable of a closure
        digests(("[2, 3]", "[2, 4]")),
        digests(extra=1),
    ):
        assert changed["architecture sized"] != first["architecture sized"] and changed["arm half"] == first["arm half"]
    changed = digests(('masks="ticket"', 'masks="oneshot"'))
    assert changed["arm half"] != first["arm half"] and changed["architecture sized"] == first["architecture sized"]


def test_how_pixels_of_an_own_data_set_are_standardised_is_part_of_its_code():
    def reader(root):
        raise NotImplementedError

    def digest(mean: float, **settings) -> str | None:
        register_dataset(Dataset("mine", reader, (1, 8, 8), 10, 100, 50, (mean,), (0.3,)))
        mine = SMALL.changed(dataset="mine", validation=20, batch_size=10, **settings)
        return digests_of_user_code(mine).get("data set mine")

    assert digest(0.1) == digest(0.1) != digest(0.2)
    assert digest(0.1, input_scaling="unit") is None


def test_a_run_whose_network_is_a_changed_class_is_not_continued(lab, monkeypatch):
    """The registered function is one constant line: what it calls is the network."""
    text = """
import vit_parts
from lthcore import register_model

class ViT(vit_parts.Base):
    def forward(self, x):
        return self.layers(x)

@register_model
def vit(settings, shape, classes):
    return ViT(classes)
"""
    parts = """
from torch import nn

def act():
    return nn.ReLU()

class Base(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), act(), nn.Linear(16, classes))
"""

    def load(name: str, text: str, parts: str) -> None:
        (lab / name).write_text(text)
        (lab / "vit_parts.py").write_text(parts)
        monkeypatch.delitem(sys.modules, "vit_parts", raising=False)
        importlib.invalidate_caches()
        monkeypatch.setenv("LTH_PLUGINS", str(lab / name))
        load_plugins()

    monkeypatch.syspath_prepend(lab)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    load("one.py", text, parts)
    settings = SMALL.changed(architecture="vit")
    run(settings, lab / "run", quiet=True)
    used = {"architecture vit", "ViT of architecture vit", "Base of architecture vit", "act of architecture vit"}
    assert set(read_record(lab / "run")["own_code"]) == used
    said = text.replace("(self, x):", '(self, x):  # images\n        """Return logits."""')
    load("two.py", said, parts)
    run(settings.changed(trials=2), lab / "run", quiet=True)
    load("three.py", text.replace("self.layers(x)", "self.layers(-x)"), parts.replace("ReLU", "Tanh"))
    with pytest.raises(LabError, match=r"code of ViT of architecture vit, act of architecture vit has changed since"):
        run(settings.changed(trials=3), lab / "run", quiet=True)


def test_the_code_of_a_class_of_a_notebook_is_found_by_its_methods(monkeypatch):
    """In a notebook Python knows the source text of functions, but not of classes: their module has no file."""
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)
    found = []
    for factor in (1, 2, 2):
        text = (
            "class Net(nn.Linear):\n    def forward(self, x):\n"
            f"        return super().forward(x.flatten(1)) * {factor}\n\n"
            "def noted(settings, shape, classes):\n    return Net(64, classes)\n"
        )
        cell, names = f"<cell {len(found)}>", {"__name__": "__main__", "nn": nn}
        linecache.cache[cell] = (len(text), None, text.splitlines(keepends=True), cell)
        exec(compile(text, cell, "exec"), names)
        register_model(names["noted"])
        found.append(digests_of_user_code(SMALL.changed(architecture="noted")))
    one, two, same = found
    assert set(one) == {"architecture noted", "Net of architecture noted"} and two == same
    assert {name for name in one if one[name] != two[name]} == {"Net of architecture noted"}


def test_a_run_that_only_began_with_other_code_is_not_continued(lab, monkeypatch):
    (lab / "one.py").write_text(LAB)
    (lab / "two.py").write_text(LAB.replace("nn.ReLU", "nn.Tanh"))
    monkeypatch.setenv("LTH_PLUGINS", str(lab / "one.py"))
    load_plugins()
    settings = SMALL.changed(architecture="tiny")
    with pytest.raises(TimeLimit):
        run(settings, lab / "run", time_limit=1e-9, quiet=True)
    monkeypatch.setenv("LTH_PLUGINS", str(lab / "two.py"))
    load_plugins()
    assert (lab / "run/run.json").exists()
    folder = RunFolder(lab / "run", settings)  # nothing was trained: either code may
    for kind in ("checkpoints", "tickets"):  # after a kill, a ticket may be there without its row
        file = lab / "run" / kind / "ticket-trial0-draw0-round00.safetensors"
        file.parent.mkdir(exist_ok=True)
        file.touch()
        with pytest.raises(LabError, match="the code of architecture tiny has changed"):
            RunFolder(folder.folder, settings)
        file.unlink()


def test_a_ticket_is_not_made_from_other_code_or_other_images_than_its_runs(lab, load):
    """Its initial weights are drawn again: by other code, they would be none of the run's."""

    load("first.py", LAB)
    run(SMALL.changed(architecture="tiny", dataset="twelve.npz"), lab / "cpu/study/mine", quiet=True)
    assert load_ticket(lab / "cpu/study/mine").round == 1
    load("second.py", LAB.replace("nn.ReLU", "nn.Tanh"))
    with pytest.raises(LabError, match="the code of architecture tiny has changed since the trainings in"):
        load_ticket(lab / "cpu/study/mine")
    load("third.py", f"{LAB}\n")
    assert load_ticket(lab / "cpu/study/mine").round == 1
    content = dict(np.load("twelve.npz"))
    np.savez("twelve.npz", images=255 - content["images"], labels=content["labels"])
    with pytest.raises(LabError, match="the data are not those that the trainings in"):
        load_ticket(lab / "cpu/study/mine")


def test_a_complete_run_notices_that_its_file_of_images_has_changed(lab, monkeypatch):
    settings = SMALL.changed(dataset="twelve.npz")
    rounds, _ = run(settings, lab / "run", quiet=True)
    ticket = lab / "run/tickets/ticket-trial0-draw0-round01.safetensors"
    accuracy = load_and_evaluate(ticket, "test")
    content = dict(np.load("twelve.npz"))
    np.savez_compressed("twelve.npz", **content)  # other bytes of the same images
    monkeypatch.setattr(executor, "train_cohort", None)
    assert run(settings, lab / "run", quiet=True)[0].equals(rounds)
    assert load_and_evaluate(ticket, "test") == accuracy
    np.savez("twelve.npz", images=255 - content["images"], labels=content["labels"])
    with pytest.raises(LabError, match=r"the data are not those that the trainings in .*put those back"):
        run(settings, lab / "run", quiet=True)
    with pytest.raises(LabError, match=r"twelve.npz is not what the run of .*put that back"):
        load_and_evaluate(ticket, "test")
    (lab / "twelve.npz").unlink()
    assert read_tables(lab / "run")[0].equals(rounds)


def test_a_params_file_alone_never_runs_code(lab, monkeypatch):
    (lab / "my_study").mkdir()
    (lab / "my_study" / "mine.yaml").write_text("plugins: trap.py\ndataset: digits\nprofiles: {cpu: {}}\n")
    (lab / "trap.py").write_text("raise SystemExit('this was run')")
    with pytest.raises(LabError, match=r"needs the plugin trap.py, which is code: run it by --plugin trap.py"):
        load_experiments(lab / "my_study" / "mine.yaml")
    (lab / "trap.py").write_text("")
    monkeypatch.setenv("LTH_PLUGINS", "trap.py")
    load_plugins()
    assert load_experiments(lab / "my_study" / "mine.yaml")[0].variant == "mine"


@pytest.mark.parametrize("plugins", ["5", "false", "[mine.py, 5]", "{a: b}"])
def test_plugins_of_a_params_file_that_are_no_names_are_one_line(lab, plugins):
    (lab / "my_study").mkdir()
    (lab / "my_study" / "mine.yaml").write_text(f"plugins: {plugins}\ndataset: digits\nprofiles: {{cpu: {{}}}}\n")
    with pytest.raises(LabError, match=r"plugins = .*: must be the name of a file, or a list of names"):
        load_experiments(lab / "my_study" / "mine.yaml")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (None, "there is no such file"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("import sys; sys.exit(3)", "bad.py: SystemExit: 3"),
    ],
)
def test_a_plugin_that_fails_is_one_line(content, what, tmp_path, monkeypatch):
    if content:
        (tmp_path / "bad.py").write_text(content)
    monkeypatch.setenv("LTH_PLUGINS", str(tmp_path / "bad.py"))
    with pytest.raises(LabError, match=what):
        load_plugins()


def test_the_names_of_this_package_are_taken():
    def lenet(settings, shape, classes): ...
    def magnitude(seen): ...
    def ticket(of): ...
    def rewound(of): ...

    for register, function in (
        (register_model, lenet), (register_criterion, magnitude), (register_arm, ticket), (register_arm, rewound)
    ):  # fmt: skip
        with pytest.raises(LabError, match="this package has one of that name"):
            register(function)


@pytest.mark.parametrize("place", ["lthcore", "lthcore.registry"])
@pytest.mark.parametrize(
    ("kind", "name", "takes"), [("model", "mlp", "settings, shape, classes"), ("criterion", "movement", "seen")]
)
def test_they_are_taken_before_this_package_has_registered_its_own(place, kind, name, takes):
    """A plugin is the first to run: a name that it takes would else be overwritten, and a built-in be trained."""
    code = f"from {place} import register_{kind}\n@register_{kind}\ndef {name}({takes}): ..."
    code += "\nimport lthcore.models, lthcore.pruning.criteria"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert f"{name!r}: this package has one of that name; choose another" in done.stderr


@pytest.mark.parametrize(
    ("register", "about", "said"),
    [
        (register_criterion, {"colour": "blue"}, "criterion 'mine': colour = 'blue': must be '#' and six"),
        (register_arm, {"colour": "#12345"}, "arm 'mine': colour = '#12345': must be '#' and six"),
        (register_arm, {"style": "dashed"}, "arm 'mine': style = 'dashed'.*allowed are -, --, -., :"),
        (register_arm, {"masks": "by_snip-shuffled"}, "arm 'mine': masks = 'by_snip-shuffled'.*pass shuffled=True"),
        (register_arm, {"masks": "by_snip-fresh"}, "arm 'mine': masks = 'by_snip-fresh': allowed are ticket, oneshot"),
        (register_arm, {"marker": "*"}, "arm 'mine': marker = '\\*': allowed are o, s"),
        (register_arm, {"drawn": "draws"}, "arm 'mine': drawn = 'draws'.*allowed are , reinit_draws, random_draws"),
    ],
)
def test_the_looks_and_draws_of_ones_own_are_among_those_known(register, about, said):
    def mine(of): ...

    with pytest.raises(LabError, match=said):
        register(mine, **about)


@pytest.mark.parametrize(("register", "kind"), [(register_criterion, "criterion"), (register_arm, "arm")])
def test_a_field_that_there_is_not_is_one_line(register, kind):
    def mine(of): ...

    said = rf"^{kind} 'mine': field = 'color' \(did you mean 'colour'\?\): allowed are label, colour, style"
    with pytest.raises(LabError, match=said):
        register(mine, color="#123456")


def test_what_holds_for_arms_by_a_criterion_holds_for_ones_own_with_such_masks():
    @register_arm(masks="by_snip")
    def snipped(of):
        return of.trial.theta_0

    @register_arm
    def by_hand(of):
        return of.trial.theta_0

    units = {"granularity": "units", "criterion": "unit_l1"}
    with pytest.raises(LabError, match="by_<criterion> is for granularity weights"):
        Settings(arms=["ticket", "snipped"], **units)
    assert Settings(arms=["ticket", "by_hand"], **units)  # whose masks are those of tickets


@pytest.mark.parametrize("register", [register_model, register_criterion, register_arm])
def test_a_function_without_a_name_is_one_line(register):
    def three(settings, shape, classes): ...

    with pytest.raises(LabError, match=r"functools\.partial.* has no name; register a function that is defined by"):
        register(partial(three))
    with pytest.raises(LabError, match=r"lambda.* has no name; register a function that is defined by"):
        register(lambda settings, shape, classes: None)


def test_a_criterion_prunes_weights_or_units():
    with pytest.raises(LabError, match=r"criterion 'shares': prunes = 'neurons'.*: allowed are weights, units"):

        @register_criterion(prunes="neurons")
        def shares(seen): ...


@pytest.mark.parametrize("key", ["architecture", "criterion", "dataset", "arms"])
def test_an_unknown_name_says_how_ones_own_are_registered(key, tmp_path):
    with pytest.raises(LabError, match=r"nowhere.*register one of your own first, as in a plugin \(--plugin FILE\)$"):
        run(SMALL.changed(**{key: ["ticket", "nowhere"] if key == "arms" else "nowhere"}), tmp_path, quiet=True)


def test_what_a_notebook_defines_it_may_define_again():
    for _ in range(2):

        @register_criterion
        def own(seen):
            return {}

    assert CRITERIA["own"].score is own and CRITERIA["own"].label == "own"


IMAGES, LABELS = np.zeros((12, 4, 4), np.uint8), np.arange(12) % 3


@pytest.mark.parametrize(
    ("arrays", "what"),
    [
        ({"labels": LABELS}, "has no array 'images'"),
        ({"images": IMAGES, "labels": LABELS[:5]}, "must be 12 whole numbers from 0"),
        ({"images": IMAGES, "labels": LABELS - 1}, "must be 12 whole numbers from 0"),
        ({"images": IMAGES.astype(float), "labels": LABELS}, "not bytes"),
        ({"images": IMAGES[:2], "labels": LABELS[:2]}, "needs training and test images"),
        ({"images": IMAGES, "labels": LABELS, "test_images": IMAGES}, "has no array 'test_labels'"),
        ({"images": np.array([{}], object), "labels": LABELS}, "not a readable"),
        (
            {"images": np.zeros((12, 3, 9, 4), np.uint8), "labels": LABELS},
            "3 channels first or 4 channels last",
        ),
        (
            {"images": IMAGES[..., None], "labels": LABELS, "layout": "NWHC"},
            "did you mean .NHWC.*allowed are NCHW, NHWC",
        ),
    ],
)
def test_a_file_that_holds_no_data_set_is_one_line(arrays, what, tmp_path):
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(LabError, match=what):
        dataset_of(str(tmp_path / "bad.npz"))
    with pytest.raises(LabError, match="there is no such file"):
        dataset_of("nowhere.npz")


def test_a_damaged_archive_of_arrays_is_one_line(tmp_path):
    np.savez_compressed(
        tmp_path / "cut.npz", images=np.arange(12 * 16, dtype=np.uint8).reshape(12, 4, 4), labels=LABELS
    )
    content = bytearray((tmp_path / "cut.npz").read_bytes())
    content[60:90] = bytes(30)
    (tmp_path / "cut.npz").write_bytes(content)
    with pytest.raises(LabError, match=r"cut.npz is not a readable .npz file"):
        dataset_of(str(tmp_path / "cut.npz"))


@pytest.mark.parametrize("write", [lambda file: file.write(b"text"), lambda file: np.save(file, LABELS)])
def test_a_file_that_is_no_archive_of_arrays_is_one_line(write, tmp_path):
    with (tmp_path / "other.npz").open("wb") as file:
        write(file)
    with pytest.raises(LabError, match=r"other.npz is not an .npz file as numpy"):
        dataset_of(str(tmp_path / "other.npz"))


def test_images_of_three_channels_may_have_them_last(tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (12, 5, 4, 3), np.uint8)
    np.savez(tmp_path / "last.npz", images=colours, labels=LABELS, test_images=colours[:3], test_labels=LABELS[:3])
    known = dataset_of(str(tmp_path / "last.npz"))
    assert (known.shape, known.classes, known.n_train, known.n_test) == ((3, 5, 4), 3, 12, 3)
    np.testing.assert_allclose(known.mean, colours.reshape(-1, 3).mean(0) / 255)
    np.testing.assert_array_equal(known.reader(tmp_path).train_images[:, 1], colours[..., 1])


@pytest.mark.parametrize(
    ("stored", "layout", "read_as"),
    [
        ((20, 14, 2), None, (2, 20, 14)),
        ((20, 14, 4), None, (4, 20, 14)),
        ((20, 14, 1), None, (1, 20, 14)),
        ((4, 4, 1), None, (1, 4, 4)),
        ((2, 20, 14), None, (2, 20, 14)),
        ((4, 20, 14), None, (4, 20, 14)),
        ((3, 20, 14), None, (3, 20, 14)),
        ((1, 4, 4), None, (1, 4, 4)),
        ((1, 20, 1), None, (1, 20, 1)),
        ((12, 5, 8), None, (12, 5, 8)),
        ((12, 5, 8), "NHWC", (8, 12, 5)),
        ((3, 9, 4), "NCHW", (3, 9, 4)),
        ((3, 9, 4), "NHWC", (4, 3, 9)),
    ],
)
def test_channels_are_where_the_shape_or_the_file_says(stored, layout, read_as, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (12, *stored), np.uint8)
    np.savez(tmp_path / "own.npz", images=images, labels=LABELS, **({"layout": layout} if layout else {}))
    known = dataset_of(str(tmp_path / "own.npz"))
    assert known.shape == read_as
    moved = images if stored == read_as else np.moveaxis(images, -1, 1)
    assert sorted(map(np.ndarray.tobytes, known.reader(tmp_path).train_images)) == sorted(
        image.tobytes() for image in moved[np.random.RandomState(0).permutation(12)[2:]]
    )


def mlp(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), *layers)


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(64, 10)

    def forward(self, x):
        return self.fc1(x.flatten(1)), x


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda classes: None, "returned NoneType, not an nn.Module"),
        (lambda classes: classes.none, "failed .AttributeError: 'int' object has no attribute 'none'"),
        (
            lambda classes: mlp(nn.Linear(16, classes - 1)),
            r"turns 2 images into a tensor of \(2, 9\), not into \(2, 10\)",
        ),
        (lambda classes: Pair(), "turns 2 images into tuple, not into"),
        (lambda classes: mlp(nn.Linear(15, classes)), r"does not take images of shape \(1, 8, 8\) \(RuntimeError: "),
    ],
)
def test_a_network_of_ones_own_that_does_not_fit_is_one_line_before_anything_is_trained(made, said, tmp_path):
    @register_model
    def own_network(settings, shape, classes):
        return made(classes)

    with pytest.raises(LabError, match=f"^models: own_network {said}") as caught:
        run(SMALL.changed(architecture="own_network"), tmp_path, quiet=True)
    assert "\n" not in str(caught.value) and not (tmp_path / "rounds.csv").exists()


def test_a_network_takes_three_arguments():
    with pytest.raises(LabError, match=r"must take \(settings, shape, classes\), not \(shape, classes\)"):

        @register_model
        def own_network(shape, classes): ...


@pytest.mark.parametrize(
    ("score", "said"),
    [
        (lambda seen: {}, r"fc1\.weight needs a tensor of \(64, 64\) as its scores, not NoneType"),
        (lambda seen: {name: seen.final[name].abs().numpy() for name in seen.mask}, "not ndarray"),
        (lambda seen: {name: seen.final[name].abs().mean(1) for name in seen.mask}, r"not a tensor of \(64,\)"),
        (lambda seen: seen.last, "failed .AttributeError: 'PruningContext' object has no attribute 'last'"),
    ],
)
def test_scores_of_ones_own_that_are_none_are_one_line(score, said, tmp_path):
    def own_criterion(seen):
        return score(seen)

    register_criterion(own_criterion)
    with pytest.raises(LabError, match=said) as caught:
        run(SMALL.changed(criterion="own_criterion"), tmp_path, quiet=True)
    assert str(caught.value).startswith("criterion 'own_criterion'") and "\n" not in str(caught.value)


def test_scores_of_ones_own_may_be_truth_values(tmp_path):
    @register_criterion
    def large(seen):
        return {name: seen.final[name].abs() > 0.1 for name in seen.mask}

    @register_criterion
    def large_as_number(seen):
        return {name: score.float() for name, score in large(seen).items()}

    for criterion in ("large", "large_as_number"):
        run(SMALL.changed(criterion=criterion), tmp_path / criterion, quiet=True)
    accuracies = [pd.read_csv(tmp_path / c / "rounds.csv")["final_test_accuracy"] for c in ("large", "large_as_number")]
    assert accuracies[0].equals(accuracies[1])


def changed(of, **changes):
    """Return the initial weights with changes, where __ stands for a dot; None leaves a name out."""
    changes = {name.replace("__", "."): value for name, value in changes.items()}
    return {name: w for name, w in (of.trial.theta_0 | changes).items() if w is not None}


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        (lambda of: of.weights, r" failed .AttributeError: 'Sources' object has no attribute 'weights'"),
        (lambda of: None, " returned NoneType, not a dict"),
        (lambda of: changed(of, fc1__bias=None), r": fc1\.bias needs a tensor of \(64,\) as its weights, not NoneType"),
        (lambda of: changed(of, fc1__bias=torch.zeros(1)), r": fc1\.bias needs .* not a tensor of \(1,\)"),
        (lambda of: changed(of, fc1__bias=torch.full((64,), NAN)), r": its weights of fc1\.bias are not all finite"),
        (lambda of: changed(of, fc9__bias=torch.zeros(1)), r" returned weights of fc9\.bias, which the network does"),
    ],
)
def test_weights_of_an_arm_of_ones_own_that_do_not_fit_are_one_line(weights, said, tmp_path):
    @register_arm(masks="ticket")
    def own_weights(of):
        return weights(of)

    with pytest.raises(LabError, match=f"^arm 'own_weights'{said}") as caught:
        run(SMALL.changed(arms=("ticket", "own_weights")), tmp_path, quiet=True)
    assert "\n" not in str(caught.value)


def test_weights_of_an_arm_of_ones_own_may_be_of_double_precision_and_have_gradients(tmp_path):
    @register_arm(masks="ticket")
    def doubled(of):
        return {name: w.double().requires_grad_() for name, w in of.trial.theta_0.items()}

    rounds, _ = run(SMALL.changed(arms=("ticket", "doubled")), tmp_path, quiet=True)
    of_round = rounds[rounds["round"] == 1].set_index("arm")["es_val_loss"]
    assert of_round["doubled"] == of_round["ticket"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"shape": (1, 8, 9)}, r"training images of own_data are uint8 of \(1, 8, 8\), not bytes"),
        ({"n_train": 250}, "own_data has 200 training images, and n_train = 250"),
        ({"mean": (0.1, 0.1, 0.1)}, "a mean and a std for each of its 1 channels"),
        ({"std": (0.0,)}, r"own_data has mean = \(0.1,\) and std = \(0.0,\): they must be finite, and every std"),
        ({"mean": (NAN,)}, "they must be finite"),
        ({"images": np.zeros((200, 1, 8, 8))}, "are float64 of"),
        ({"images": [[0]]}, "training images and labels of own_data must be NumPy arrays"),
        ({"labels": np.full(200, 10)}, "10 classes, and a label 10 among its training images"),
    ],
)
def test_data_of_ones_own_that_are_not_what_is_said_of_them_are_one_line(changes, said):
    images, labels = np.zeros((200, 1, 8, 8), np.uint8), np.arange(200) % 10
    raw = Raw(changes.pop("images", images), changes.pop("labels", labels), images[:50], labels[:50], "own")
    about = {"shape": (1, 8, 8), "classes": 10, "n_train": 200, "n_test": 50, "mean": (0.1,), "std": (1.0,)} | changes
    register_dataset(Dataset("own_data", lambda root: raw, **about))
    with pytest.raises(LabError, match=said):
        read("own_data")


def returned(value):
    """Return a reader that returns this value, or raises it if it is an error."""

    def reader(root):
        if isinstance(value, Exception):
            raise value
        return value

    return reader


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (ZeroDivisionError("division by zero"), "reader of own_data failed .ZeroDivisionError: division by zero.$"),
        ((np.zeros((9, 1, 8, 8), np.uint8), np.arange(9)), "reader of own_data returned tuple, not Raw$"),
        (LabError("data: in the attic"), "^data: in the attic$"),
    ],
)
def test_a_reader_of_ones_own_that_fails_is_one_line(value, said, monkeypatch):
    about = {"shape": (1, 8, 8), "classes": 10, "n_train": 9, "n_test": 9, "mean": (0.1,), "std": (1.0,)}
    monkeypatch.setitem(DATASETS, "own_data", Dataset("own_data", returned(value), **about))
    with pytest.raises(LabError, match=said):
        read("own_data")


def test_classes_without_a_training_image_are_said(tmp_path, monkeypatch, capsys):
    """This happens if labels count from 1: then class 0 is empty."""
    images, labels = np.zeros((200, 8, 8), np.uint8), np.arange(200) % 12 + 1
    np.savez(tmp_path / "from_one.npz", images=images, labels=labels)
    monkeypatch.chdir(tmp_path)
    read("from_one.npz")
    assert "from_one.npz has 13 classes, 1 of them without a training image (0); labels" in capsys.readouterr().err


def test_a_label_of_many_digits_needs_no_memory_for_the_classes_below_it(tmp_path, monkeypatch, capsys):
    images, labels = np.zeros((200, 8, 8), np.uint8), np.where(np.arange(200) == 7, 10**15, np.arange(200) % 3)
    np.savez(tmp_path / "far.npz", images=images, labels=labels, test_images=images, test_labels=labels)
    monkeypatch.chdir(tmp_path)
    assert verified("far.npz").startswith("far.npz: 200 train, 200 test")
    said = "1,000,000,000,000,001 classes, 999,999,999,999,997 of them without a training image (3, 4, 5, 6, 7 ...)"
    assert said in capsys.readouterr().err


def test_each_draw_of_an_arm_of_ones_own_has_a_seed_of_its_own(tmp_path):
    @register_arm(masks="ticket", drawn="reinit_draws")
    def own_draws(of):
        generator = torch.Generator().manual_seed(of.seed)
        return {name: torch.randn(w.shape, generator=generator) / 10 for name, w in of.trial.theta_0.items()}

    rounds, _ = run(SMALL.changed(arms=("ticket", "own_draws"), reinit_draws=3), tmp_path, quiet=True)
    assert rounds[rounds["arm"] == "own_draws"].groupby(["trial", "round"])["es_val_loss"].nunique().eq(3).all()


def test_what_a_criterion_or_an_arm_of_ones_own_changes_in_place_changes_no_other_arm(tmp_path):
    @register_criterion
    def in_place(seen):
        for m in seen.mask.values():
            m.fill_(True)
        return {name: seen.final[name].abs_() + seen.initial[name].zero_() for name in seen.mask}

    @register_arm(masks="ticket")
    def halved_in_place(of):
        for tensors in (of.trial.theta_0, of.trial.dense.weights, of.model.state_dict()):
            for w in tensors.values():
                w.mul_(0.5)
        of.mask["fc1.weight"].fill_(True)
        return of.trial.theta_0

    arms = ("ticket", "continued", "reinit")
    alone, _ = run(SMALL.changed(arms=arms, rounds=2), tmp_path / "alone", quiet=True)
    with_ours = SMALL.changed(arms=("ticket", "by_in_place", "halved_in_place", *arms[1:]), rounds=2)
    rounds, _ = run(with_ours, tmp_path / "with_ours", quiet=True)
    shared = rounds[rounds["arm"].isin(arms)].reset_index(drop=True)
    columns = ["arm", "round", "draw", "percent_left", "final_test_accuracy", "es_val_loss"]
    pd.testing.assert_frame_equal(shared[columns], alone[columns])
    assert rounds.groupby("round")["percent_left"].nunique().eq(1).all()


def test_a_criterion_with_a_digit_in_its_name_is_an_arm_too():
    @register_criterion
    def l2_at_init(seen):
        return {name: seen.initial[name].square() for name in seen.mask}

    assert arm_of("by_l2_at_init").masks == "by_l2_at_init"
    assert arm_of("by_l2_at_init-shuffled").shuffled and arm_of("by_l2_at_init-inverted").masks.endswith("-inverted")


def test_the_digest_of_own_code_is_the_same_in_all_versions_of_python():
    @register_criterion
    def quoted(seen):
        names = [f'{name["a"]} of {name["b"]}' for name in ()]  # fmt: skip
        return {name: seen.final[name].abs() for name in seen.mask if name not in names}

    assert digests_of_user_code(SMALL.changed(criterion="quoted"))["criterion quoted"] == "8b449f44d66e44bf"


def test_classes_in_a_table_are_part_of_own_code():
    class Block(nn.Module):
        pass

    blocks = {"plain": [Block]}

    @register_model
    def tabled(settings, shape, classes):
        return blocks["plain"][0]()

    assert "Block of architecture tabled" in digests_of_user_code(SMALL.changed(architecture="tabled"))


def test_an_arm_that_starts_from_trained_weights_continues_the_same_without_ticket_files(tmp_path):
    @register_arm
    def From_dense(of):  # noqa: N802 - any name of Python is allowed
        return dict(of.trial.dense.weights)

    @register_arm
    def from_last_ticket(of):
        return dict(of.trial.latest["ticket"].weights)

    settings = SMALL.changed(rounds=3, arms=["ticket", "From_dense", "from_last_ticket"])
    whole = run(settings, tmp_path / "whole", quiet=True)
    run(settings.changed(rounds=1), tmp_path / "resumed", quiet=True)
    shutil.rmtree(tmp_path / "resumed" / "tickets")
    for expected, table in zip(whole, run(settings, tmp_path / "resumed", quiet=True), strict=True):
        pd.testing.assert_frame_equal(
            table.drop(columns="seconds", errors="ignore"), expected.drop(columns="seconds", errors="ignore")
        )


def test_networks_that_have_dropout_only_if_it_is_asked_for_can_be_pruned_before_training(tmp_path):
    @register_model
    def dropping(settings, shape, classes):
        noise = [Dropout(settings.dropout)] if settings.dropout else []
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), *noise, nn.Linear(16, classes))

    dropped = {"architecture": "dropping", "dropout": 0.2}
    rounds, _ = run(SMALL.changed(**dropped, arms=["ticket", "by_snip"]), tmp_path / "snip", quiet=True)
    assert set(rounds["arm"]) >= {"by_snip"}
    regrown = DynamicSettings(
        dataset="digits", validation=200, iterations=90, eval_every=45, trials=1, device="cpu", regrowth="gradient",
        sparsity_schedule="constant", **dropped,
    )  # fmt: skip
    assert len(run(regrown, tmp_path / "regrown", quiet=True)[0]) == 1
