"""Settings: accepted values, error messages for refused ones, params files, and the keys of runs and seeds."""

import json
from pathlib import Path

import pytest

from lthcore.errors import LONGEST, LabError, choose
from lthcore.lottery.checks import check_settings
from lthcore.lottery.methods import planned, settings_for
from lthcore.paths import PROFILES, folder_of
from lthcore.recipe import EXTENT
from lthcore.registry import CRITERIA, MODELS
from lthcore.runs.experiments import check_name, load_experiment, load_experiments
from lthcore.seeds import seed_for
from lthcore.settings import DynamicSettings, Settings, TransferSettings
from lthcore.sources.catalogue import DATASETS

ROOT = Path(__file__).parents[1]
PARAMS = sorted((ROOT / "params").glob("*/*.yaml"))
EXTENDED = {
    "arms": ("ticket", "oneshot"),
    "trials": 17,
    "reinit_draws": 17,
    "random_draws": 17,
    "rounds": 17,
    "device": "cpu",
    "engine": "dense",
}


def refusal(**values) -> str:
    with pytest.raises(LabError) as caught:
        Settings(**values)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def params_file(folder: Path, text: str) -> Path:
    path = folder / "notebook" / "variant.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


# Run keys. If a key below changes, published results no longer belong to their settings: fix the code, not the test.


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({}, "lenet-mnist-44136fa3"),
        ({"learning_rate": 2e-4}, "lenet-mnist-d7d872a8"),
        (
            {"dataset": "digits", "architecture": "mlp", "validation": 200, "iterations": 1000, "widths": (32, 16)},
            "mlp-digits-93a63157",
        ),
        (
            {"dataset": "cifar10", "architecture": "conv2", "learning_rate": 2e-4, "iterations": 20_000},
            "conv2-cifar10-485545ef",
        ),
    ],
)
def test_run_key_is_golden(values, key):
    assert Settings(**values).key == key


def test_every_extent_field_is_tested():
    assert set(EXTENDED) == set(EXTENT)


@pytest.mark.parametrize("field", EXTENT)
def test_extending_a_run_keeps_its_key(field):
    extended = Settings(**{field: EXTENDED[field]})
    assert extended != Settings()
    assert extended.key == Settings().key


@pytest.mark.parametrize("values", [{"learning_rate": 1e-3}, {"seed": 1}, {"widths": (300, 99)}, {"rewind_to": 1}])
def test_whatever_changes_a_training_changes_the_key(values):
    assert Settings(**values).key != Settings().key


def test_a_default_written_out_keeps_the_key():
    assert Settings(**Settings().model_dump()).key == Settings().key


def test_key_does_not_tell_an_integer_from_the_same_float():
    assert Settings(clip_norm=1).key == Settings(clip_norm=1.0).key


def test_settings_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Settings().seed = 1


def test_changed_is_checked_too_and_leaves_the_original():
    settings = Settings()
    assert settings.changed(seed=3).seed == 3 and settings.seed == 0
    with pytest.raises(LabError, match="batch_size = 0"):
        settings.changed(batch_size=0)


# Values


@pytest.mark.parametrize(
    ("typo", "key"), [("lerning_rate", "learning_rate"), ("batchsize", "batch_size"), ("prune_dense", "prune_")]
)
def test_unknown_key_names_the_nearest_valid_key(typo, key):
    assert f"unknown key '{typo}' = 1 (did you mean '{key}" in refusal(**{typo: 1})


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("iterations", "many", "integer"),
        ("iterations", 1.5, "integer"),
        ("iterations", 0, "greater than 0"),
        ("learning_rate", "fast", "number"),
        ("learning_rate", [0.1], "number"),
        ("learning_rate", -0.1, "greater than 0"),
        ("learning_rate", float("nan"), "finite"),
        ("learning_rate", float("inf"), "finite"),
        ("dropout", 1.0, "less than 1"),
        ("prune_fc", -0.2, "greater than or equal to 0"),
        ("nesterov", "perhaps", "boolean"),
        ("augment", "flip", "a list, as"),
        ("dataset", 3, "string"),
        ("optimizer", "rmsprop", "'adam', 'adamw' or 'sgd'"),
        ("optimizer", "two\nlines", "'adam', 'adamw' or 'sgd'"),
        ("scope", "network", "'layer' or 'global'"),
        ("arms", "ticket", "a list, as"),
    ],
)
def test_refusal_names_key_value_and_what_is_allowed(key, value, allowed):
    message = refusal(**{key: value})
    assert f"{key} = {value!r}" in message and allowed in message


def test_one_line_names_every_bad_key():
    message = refusal(learning_rate=-1, batch_size=0, sede=1)
    assert "learning_rate = -1" in message and "batch_size = 0" in message and "sede" in message


@pytest.mark.parametrize("key", ["learning_rate", "iterations", "trials", "momentum", "seed", "dataset", "widths"])
@pytest.mark.parametrize("value", [True, False])
def test_bool_is_no_number(key, value):
    assert f"{key} = {value}" in refusal(**{key: value})


@pytest.mark.parametrize("values", [{"widths": [True]}, {"milestones": [True], "schedule": "step"}])
def test_bool_is_no_number_in_a_list_either(values):
    refusal(**values)


@pytest.mark.parametrize("text", ["1e-3", "1.0e-3", "0.001"])
def test_numbers_that_yaml_reads_as_strings_are_numbers(text):
    assert Settings(learning_rate=text).learning_rate == 1e-3
    assert Settings(learning_rate=text).key == Settings(learning_rate=1e-3).key


def test_lists_of_yaml_become_tuples():
    settings = Settings(widths=[30, 10], arms=["ticket"])
    assert settings.widths == (30, 10) and settings.arms == ("ticket",)


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"momentum": 0.9}, "momentum"),
        ({"momentum": 0.9, "optimizer": "adamw"}, "momentum"),
        ({"nesterov": True, "optimizer": "sgd"}, "nesterov"),
        ({"milestones": (10,)}, "milestones"),
        ({"milestones": (10,), "schedule": "cosine"}, "milestones"),
        ({"schedule": "step"}, "milestones"),
        ({"schedule": "step", "milestones": (20, 10)}, "milestones"),
        ({"schedule": "step", "milestones": (10, 10)}, "milestones"),
        ({"schedule": "step", "milestones": (-10, 10)}, "milestones"),
        ({"schedule": "step", "milestones": (10, 10**6)}, "milestones"),
        ({"warmup": 11, "iterations": 10}, "warmup"),
        ({"rewind_to": 10, "iterations": 10}, "rewind_to"),
        ({"arms": ("reinit",)}, "arms"),
        ({"arms": ()}, "arms"),
        ({"arms": ("ticket", "ticket")}, "arms"),
        ({"arms": ("ticket", "fine_tuned"), "schedule": "cosine"}, "arms"),  # cosine ends at a learning rate of 0
        ({"widths": (300, 0)}, "widths"),
        ({"weight_decay": 1.0}, "weight_decay"),
        ({"dataset": "mnist", "augment": ("flip",)}, "augment"),
        ({"dataset": "fashion_mnist_permuted", "augment": ("flip",)}, "augment"),
        ({"init_std": 0.5}, "init_std"),  # Glorot's initialisation has no use for it
        ({"gamma": 0.5}, "gamma"),
    ],
)
def test_impossible_combinations_are_refused(values, key):
    assert f"settings: {key} = " in refusal(**values)


@pytest.mark.parametrize(
    "values",
    [
        {"optimizer": "sgd", "momentum": 0.9, "nesterov": True},
        {"schedule": "step", "milestones": (10, 20)},
        {"warmup": 10, "iterations": 10},
        {"rewind_to": 9, "iterations": 10},
        {"optimizer": "adamw", "weight_decay": 0.01},
        {"dataset": "fashion_mnist", "augment": ("flip",)},
        {"initialisation": "gaussian", "init_std": 0.5},
        {"schedule": "step", "milestones": (10,), "gamma": 0.5},
    ],
)
def test_combinations_at_the_edge_are_allowed(values):
    assert Settings(**values).changed() == Settings(**values)


def test_the_run_key_does_not_depend_on_the_order_in_which_augmentations_are_written():
    one, other = (Settings(dataset="cifar10", augment=kinds) for kinds in (("flip", "crop"), ("crop", "flip")))
    assert one.augment == other.augment == ("crop", "flip") and one.key == other.key


def test_draws_of_each_arm():
    settings = Settings(reinit_draws=3, random_draws=2)
    arms = ("ticket", "reinit", "random", "oneshot", "oneshot_reinit", "continued")
    assert [settings.draws(arm) for arm in arms] == [1, 3, 2, 1, 3, 1]


def test_choose_names_the_nearest_and_all():
    assert choose("scope", "layer", ("layer", "global")) == "layer"
    with pytest.raises(LabError) as caught:
        choose("scope", "globe", ("layer", "global"))
    assert str(caught.value) == "scope = 'globe' (did you mean 'global'?): allowed are layer, global"


def test_committed_records_are_of_settings_that_this_version_reads_under_their_own_keys(committed):
    paths = sorted(committed.glob("*/*/*/run.json"))
    assert len(paths) > 100
    for path in paths:
        record = json.loads(path.read_text())
        settings = settings_for(path.parts[-3])(**record["settings"])
        assert settings.key == record["run_key"], path


# Sizes


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"trials": 3, "rounds": 0},
        {"arms": ("ticket", "reinit", "random", "oneshot_reinit", "resampled", "by_snip"), "rounds": 4, "trials": 2},
        {"reinit_draws": 7, "random_draws": 5},
    ],
)
def test_trainings_are_counted_as_they_are_planned(values):
    for settings in (Settings(**values), TransferSettings(dataset="digits", validation=0), DynamicSettings(trials=3)):
        assert settings.trainings == len(planned(settings))


@pytest.mark.parametrize("key", ["trials", "reinit_draws", "random_draws"])
def test_a_plan_that_no_machine_could_do_is_refused_by_its_number_of_trainings(key):
    message = refusal(**{key: 10**9})
    assert f"{key} = 1000000000" in message and ",000" in message and "trainings, and 100,000 are allowed" in message


def test_a_dynamic_plan_is_refused_by_its_size_too():
    with pytest.raises(LabError, match=r"that would be 1,000,000,000 trainings"):
        DynamicSettings(trials=10**9)
    with pytest.raises(LabError, match=r"prune_every = 1: allowed are up to 100,000 updates"):
        DynamicSettings(iterations=10**9, prune_every=1)


def test_an_unknown_arm_is_refused_as_one_of_the_settings():
    assert refusal(arms=("ticket", "bogus")).startswith("settings: arms = 'bogus': allowed are ticket, reinit")


@pytest.mark.parametrize("widths", [(10**10,), (1,) * 101])
def test_layers_beyond_what_can_be_counted_are_refused(widths):
    assert "allowed are up to 100 layers of up to 1,000,000 neurons" in refusal(widths=widths)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"widths": (10**6, 10**6)}, "weights for images of (1, 28, 28), and at most 200,000,000 are allowed"),
        ({"widths": (4000,), "image_size": 256, "dataset": "digits", "validation": 0}, "262,188,010 weights"),
        ({"dataset": "cifar10", "image_size": 256}, "000 values of cifar10"),
        ({"batch_size": 10**9}, "mnist has 60,000 training images to share"),
    ],
)
def test_networks_and_images_that_no_memory_holds_are_refused_before_any_is_taken(values, said):
    with pytest.raises(LabError) as caught:
        check_settings(Settings(**values))
    assert said in str(caught.value)


@pytest.mark.parametrize("architecture", sorted(MODELS))
def test_every_architecture_is_well_below_the_largest(architecture):
    check_settings(Settings(architecture=architecture, dataset="cifar10"))


def test_of_many_unknown_keys_and_wrong_values_three_are_named_and_the_rest_counted():
    message = refusal(**{f"key{i}": i for i in range(1000)}, widths=["a"] * 50)
    assert "key2" in message and "key3" not in message and "997 more unknown keys" in message
    assert "widths.2" in message and "widths.3" not in message and "47 more wrong values" in message


@pytest.mark.parametrize("key", ["self", "cls", "values", "", "model_config", "__class__"])
def test_a_key_that_python_has_a_use_for_is_an_unknown_one(key):
    assert f"unknown key {key!r} = 1" in refusal(**{key: 1})
    with pytest.raises(LabError, match="unknown key"):
        Settings().changed(**{key: 1})


def test_values_that_cannot_be_written_out_are_shown_in_short():
    deep = []
    for _ in range(5000):
        deep = [deep]
    for value in (deep, 10**6000, "x" * 10**6, "\x1b[31m\n"):
        assert "optimizer = " in refusal(optimizer=value)


@pytest.mark.parametrize("text", ["a\nb", "x" * 10**6, "\x1b[2J", "word " * 1000, ""])
def test_an_error_is_one_line_of_printable_characters(text):
    said = str(LabError(text))
    assert "\n" not in said and said.isprintable() and len(said) <= LONGEST


def test_a_long_error_keeps_how_it_begins_and_what_to_do():
    said = str(LabError(f"results: {'x' * 1000}; run with --force"))
    assert said.startswith("results: ") and said.endswith("run with --force") and " ... " in said


# Epochs


def test_epochs_are_iterations_and_evaluations():
    settings = DynamicSettings(epochs=30, batch_size=128)
    assert (settings.steps_per_epoch, settings.iterations, settings.eval_every) == (429, 30 * 429, 429)
    larger = settings.changed(batch_size=256, validation=0)
    assert (larger.iterations, larger.eval_every) == (30 * 234, 234)
    assert Settings(**Settings(epochs=2).model_dump()) == Settings(epochs=2)


def test_epochs_with_another_grid_of_evaluations_are_another_run():
    keys = {DynamicSettings(epochs=30, **more).key for more in ({}, {"eval_every": 100}, {"eval_every": 916 // 2})}
    assert len(keys) == 3 and DynamicSettings(epochs=30).key == DynamicSettings(epochs=30, eval_every=916).key


def test_changed_epochs_take_the_place_of_iterations_and_the_reverse():
    """The value that is changed counts, and the other one is derived from it."""
    by_steps = Settings(iterations=5_000, eval_every=200)
    by_epochs = by_steps.changed(epochs=2)
    assert (by_epochs.epochs, by_epochs.iterations, by_epochs.eval_every) == (2, 2 * 916, 200)
    assert Settings().changed(epochs=3) == Settings(epochs=3)  # by default, evaluated once an epoch
    back = Settings(epochs=2).changed(iterations=700)
    assert (back.epochs, back.iterations, back.eval_every) == (0, 700, 916)
    assert Settings(epochs=2).changed(iterations=700, eval_every=50).eval_every == 50
    without = Settings(epochs=2).changed(epochs=0)
    assert (without.epochs, without.iterations, without.eval_every) == (0, 2 * 916, 916)
    with pytest.raises(LabError, match="give one"):
        by_steps.changed(epochs=2, iterations=700)


def test_epochs_of_a_data_set_without_a_batch_say_so_and_those_of_an_unknown_one_wait_for_it():
    said = "batch_size = 60: allowed are no more than the training images without validation"
    assert said in refusal(dataset="digits", architecture="mlp", validation=1430, epochs=2)
    with pytest.raises(LabError, match=r"dataset = 'digts' \(did you mean 'digits'\?\)"):
        check_settings(Settings(dataset="digts", epochs=2))


@pytest.mark.parametrize("values", [{"epochs": 30.0}, {"epochs": 3, "batch_size": "9"}, {"epochs": 3, "iterations": 5}])
def test_epochs_that_are_no_whole_numbers_or_contradict_iterations_are_refused(values):
    assert "epochs" in refusal(**values)


# Params files


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("path", PARAMS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_params_file_loads_under_every_profile(path, profile):
    for notebook, variant, loaded, settings in load_experiments(path, profile):
        assert (notebook, loaded) == (path.parent.name, profile) and variant.startswith(path.stem)
        assert settings.dataset in DATASETS and settings.architecture in MODELS
        assert not isinstance(settings, Settings) or CRITERIA[settings.criterion].prunes == settings.granularity
        assert settings.train_examples + settings.validation < DATASETS[settings.dataset].n_train


# What Figure 2 and the appendices of the paper (arXiv 1803.03635) say of each network. It does not say how pixels are
# scaled (docs/deviations.md, 1), nor how often networks without early stopping are evaluated.
ALL = {"validation": 5000, "train_examples": 0, "initialisation": "glorot_normal", "precision": "float32"}
ALL |= {"warmup": 0, "dropout": 0.0, "trials": 5, "reinit_draws": 3}
ADAM = ALL | {"optimizer": "adam", "schedule": "constant", "batch_size": 60, "weight_decay": 0.0, "augment": ()}
ADAM |= {"eval_every": 100, "scope": "layer", "prune_fc": 0.2, "prune_output": 0.1}
ADAM |= {"random_draws": 2}  # ten random networks in five trials
SGD = ALL | {"optimizer": "sgd", "momentum": 0.9, "schedule": "step", "gamma": 0.1, "weight_decay": 1e-4}
SGD |= {"dataset": "cifar10", "augment": ("crop", "flip"), "scope": "global", "prune_conv": 0.2, "prune_output": 0.0}
EPOCH = 45_000 // 64  # iterations of VGG-19, without the partial last batch (9)
PAPER = {
    "lenet": ADAM | {"dataset": "mnist", "learning_rate": 1.2e-3, "iterations": 50_000},
    "conv2": ADAM | {"dataset": "cifar10", "learning_rate": 2e-4, "iterations": 20_000, "prune_conv": 0.1},
    "conv4": ADAM | {"dataset": "cifar10", "learning_rate": 3e-4, "iterations": 25_000, "prune_conv": 0.1},
    "conv6": ADAM | {"dataset": "cifar10", "learning_rate": 3e-4, "iterations": 30_000, "prune_conv": 0.15},
    "resnet20": SGD
    | {"batch_size": 128, "iterations": 30_000, "milestones": (20_000, 25_000), "read_at": (10_000, 20_000, 30_000)},
    "vgg19": SGD
    | {"batch_size": 64, "iterations": 160 * EPOCH, "milestones": (80 * EPOCH, 120 * EPOCH)}
    | {"read_at": (30_000, 60_000, 112_000)},
}  # fmt: skip
# the experiments of the main text, and what they change in the recipe of their network
PROTOCOL = {
    "lenet_mnist": {},
    "lenet_mnist_standardised": {},
    "lenet_fashion_mnist": {"dataset": "fashion_mnist"},  # not in the paper: its recipe on other images
    "conv2_cifar10": {},
    "conv4_cifar10": {},
    "conv6_cifar10": {},
    "conv_dropout-conv2": {"dropout": 0.5, "iterations": 60_000, "learning_rate": 3e-4},
    "conv_dropout-conv4": {"dropout": 0.5, "iterations": 75_000, "learning_rate": 2e-4},
    "conv_dropout-conv6": {"dropout": 0.5, "iterations": 90_000, "learning_rate": 2e-4},
    "resnet20_cifar10-lr0.1": {"learning_rate": 0.1},
    "resnet20_cifar10-lr0.03-warmup": {"learning_rate": 0.03, "warmup": 20_000},
    "resnet20_cifar10-lr0.01": {"learning_rate": 0.01},
    "vgg19_cifar10-lr0.1": {"learning_rate": 0.1},
    "vgg19_cifar10-lr0.1-warmup": {"learning_rate": 0.1, "warmup": 10_000},
    "vgg19_cifar10-lr0.01": {"learning_rate": 0.01},
}
# the sweeps of the appendix, and all that they change in the recipe of their network; they have three trials
LAYERWISE = ("scope", "learning_rate", "warmup")
SWEEPS = {
    "lenet_mnist_adam_rates": ("learning_rate",),
    "lenet_mnist_sgd_rates": ("optimizer", "learning_rate"),
    "lenet_mnist_sgd": ("optimizer", "learning_rate"),
    "lenet_mnist_momentum": ("optimizer", "learning_rate"),
    "lenet_mnist_pruning_rates": ("prune_fc", "prune_output"),
    "lenet_mnist_initialisation": ("initialisation",),
    "lenet_mnist_widths": (),
    "conv_adam_rates": ("learning_rate",),
    "conv_sgd_rates": ("optimizer", "learning_rate"),
    "conv_momentum": ("optimizer", "learning_rate"),
    "conv_pruning_rates": ("prune_conv",),
    "conv_parts": ("prune_conv", "prune_fc", "prune_output"),
    "conv_dropout_rates": ("dropout", "iterations", "learning_rate"),
    **{
        f"{network}_{sweep}": LAYERWISE
        for network in ("resnet20", "vgg19")
        for sweep in ("layerwise", "rates", "warmups")
    },
}


def at_paper_scale(file: str) -> dict[str, Settings]:
    """Return the settings of the experiments of a params file at profile `paper`, by name."""
    path = ROOT / "params" / "iterative_pruning" / f"{file}.yaml"
    return {each.variant: each.settings for each in load_experiments(path, "paper")}


@pytest.mark.parametrize("name", PROTOCOL)
def test_at_paper_scale_an_experiment_of_the_paper_follows_its_protocol(name):
    settings = at_paper_scale(name.partition("-")[0])[name]
    expected = PAPER[settings.architecture] | PROTOCOL[name]
    assert settings.architecture in name
    assert {field: getattr(settings, field) for field in expected} == expected


@pytest.mark.parametrize("file", SWEEPS)
def test_a_sweep_of_the_papers_appendix_changes_nothing_but_what_it_sweeps(file):
    for name, settings in at_paper_scale(file).items():
        expected = {k: v for k, v in PAPER[settings.architecture].items() if k not in SWEEPS[file]} | {"trials": 3}
        expected.pop("random_draws", None)  # sweeps have no random networks
        assert {field: getattr(settings, field) for field in expected} == expected, name


def test_no_two_experiments_share_a_folder_and_at_paper_scale_none_repeats_another():
    experiments = [e for path in PARAMS for e in load_experiments(path, "paper")]
    assert len({e.name for e in experiments}) == len(experiments)
    for profile in ("cpu", "paper"):  # at smoke scale settings may coincide
        for path in PARAMS:
            keys = [e.settings.key for e in load_experiments(path, profile)]
            assert len(set(keys)) == len(keys), path


def test_there_are_params_files():
    assert PARAMS


def test_profile_goes_over_the_flat_keys_and_overrides_go_over_both(tmp_path):
    path = params_file(tmp_path, "seed: 1\ntrials: 3\nprofiles: {cpu: {seed: 2, learning_rate: 1e-3}, paper: }")
    assert load_experiment(path, "paper").settings == Settings(seed=1, trials=3)
    assert load_experiment(path, "cpu").settings == Settings(seed=2, trials=3, learning_rate=1e-3)
    assert load_experiment(path, "cpu", {"seed": "5"}).settings == Settings(seed=5, trials=3, learning_rate=1e-3)


def test_a_sweep_is_an_experiment_for_each_label(tmp_path):
    text = "seed: 1\nsweep: {slow: {learning_rate: 1e-4}, again: {}}\nprofiles: {cpu: {seed: 2}, paper: }"
    path = params_file(tmp_path, text)
    slow, again = load_experiments(path, "cpu")
    assert (slow.name, again.name) == ("cpu/notebook/variant-slow", "cpu/notebook/variant-again")
    assert slow.settings == Settings(seed=2, learning_rate=1e-4) and again.settings == Settings(seed=2)
    assert [e.settings.trials for e in load_experiments(path, "paper", {"trials": 2})] == [2, 2]
    scaled = params_file(tmp_path, text.replace("{seed: 2}", "{seed: 2, sweep: {slow: {seed: 3}}}"))
    assert [e.settings.seed for e in load_experiments(scaled, "cpu")] == [3, 2]
    typo = params_file(tmp_path, text.replace("{seed: 2}", "{sweep: {slwo: {seed: 3}}}"))
    with pytest.raises(LabError, match="did you mean 'slow'"):
        load_experiments(typo, "cpu")
    path = params_file(tmp_path, text)
    with pytest.raises(LabError, match="a sweep of 2 experiments"):
        load_experiment(path, "cpu")


@pytest.mark.parametrize(
    "name",
    [
        "x/../../../../victim",
        "..",
        ".",
        "",
        ".hidden",
        "a/b",
        "a\\b",
        "/etc",
        "a b",
        "a\nb",
        "~",
        "a:b",
        "é",
        "x" * 101,
    ],
)
def test_names_of_folders_lead_nowhere(tmp_path, name):
    text = f"sweep: {{{json.dumps(name)}: {{}}, a: {{}}}}\nprofiles: {{cpu: }}"
    with pytest.raises(LabError, match="label of the sweep"):
        load_experiments(params_file(tmp_path, text), "cpu")
    with pytest.raises(LabError, match="profile"):
        load_experiments(params_file(tmp_path, f"profiles: {{{json.dumps(name)}: , cpu: }}"), "cpu")
    for what in ("params folder", "params file"):
        with pytest.raises(LabError, match=what):
            check_name(what, name)


@pytest.mark.parametrize("name", ["0", "95", "78.9", "lr0.03-warmup", "1.2e-3", "a+b", "-", "x" * 100])
def test_names_of_folders_may_have_letters_digits_and_four_signs(name):
    assert check_name("label", name) == name


def test_files_whose_names_make_no_folders_are_one_line(tmp_path):
    for path in (tmp_path / "a b" / "c.yaml", tmp_path / "lab" / "a b.yaml", tmp_path / "lab" / "stop.yaml"):
        path.parent.mkdir(exist_ok=True)
        path.write_text("profiles: {cpu: }")
        with pytest.raises(LabError, match=r"params folder 'a b'|params file 'a b'|a file of the name stop"):
            load_experiments(path, "cpu")


def test_a_file_named_from_its_own_folder_is_of_that_folder(tmp_path, monkeypatch):
    params_file(tmp_path, "profiles: {cpu: }")
    monkeypatch.chdir(tmp_path / "notebook")
    assert load_experiment("variant.yaml").name == "cpu/notebook/variant"


@pytest.mark.parametrize("linked", [False, True])
def test_runs_are_kept_inside_the_results_root(tmp_path, monkeypatch, linked):
    root = tmp_path / "results"
    (tmp_path / "elsewhere").mkdir()
    root.symlink_to(tmp_path / "elsewhere") if linked else root.mkdir()
    monkeypatch.setenv("LTH_RESULTS", str(root))
    assert folder_of("cpu/lab/tiny") == root / "cpu/lab/tiny"
    (root / "cpu").symlink_to(tmp_path)
    for name in ("../victim", "cpu/lab", "a/../..", "/etc", ".", ""):
        with pytest.raises(LabError, match="leads out of"):
            folder_of(name)


@pytest.mark.parametrize("sweep", ["[a]", "{}", "{1: {}}", "{a: 3}", "{a: {sede: 1}}"])
def test_a_sweep_of_another_shape_is_one_line(tmp_path, sweep):
    with pytest.raises(LabError) as caught:
        load_experiments(params_file(tmp_path, f"sweep: {sweep}\nprofiles: {{cpu: }}"), "cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("read_at", [(15,), (100, 200, 300, 400), (60_000,)])
def test_readings_must_be_evaluated(read_at):
    assert "read_at" in refusal(read_at=read_at)


def test_override_marks_the_variant_with_what_it_changes_and_its_key(tmp_path):
    experiment = load_experiment(params_file(tmp_path, "profiles: {cpu: }"), "cpu", {"learning_rate": 2e-4})
    assert experiment.name == "cpu/notebook/variant-learning_rate0.0002-d7d872a8"
    assert experiment.settings.key == "lenet-mnist-d7d872a8"


@pytest.mark.parametrize("overrides", [None, {}, {"device": "cpu", "engine": "dense"}, {"learning_rate": 1.2e-3}])
def test_override_that_keeps_the_key_keeps_the_variant(tmp_path, overrides):
    experiment = load_experiment(params_file(tmp_path, "profiles: {cpu: }"), "cpu", overrides)
    assert experiment.name == "cpu/notebook/variant"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seed: [1", "not YAML"),
        ("a: b: c", "not YAML"),
        ("", "profiles"),
        ("- seed", "profiles"),
        ("seed: 1", "profiles"),
        ("profiles: [cpu]", "profiles"),
        ("profiles: {}", "a mapping `profiles:` with smoke, cpu, paper"),
        ("trials: 1\ntrials: 2\nprofiles: {cpu: }", "'trials' is there twice"),
        ("profiles: {paper: {}}", "profile = 'cpu': allowed are paper"),
        ("sede: 1\nprofiles: {cpu: }", "did you mean 'seed'?"),
        ("profiles: {cpu: {sede: 1}}", "did you mean 'seed'?"),
        ("seed: yes\nprofiles: {cpu: }", "seed = True"),
    ],
)
def test_params_file_that_cannot_be_used_is_one_line(tmp_path, text, said):
    with pytest.raises(LabError) as caught:
        load_experiment(params_file(tmp_path, text), "cpu")
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["profiles: {cpu: 3}", "profiles: {cpu: [seed]}", "3: 4\nprofiles: {cpu: }"])
def test_params_file_of_another_shape_is_one_line(tmp_path, text):
    with pytest.raises(LabError):
        load_experiment(params_file(tmp_path, text), "cpu")


def test_params_file_that_is_no_text_is_one_line(tmp_path):
    path = params_file(tmp_path, "")
    path.write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(LabError):
        load_experiment(path, "cpu")


def test_missing_params_file_is_named(tmp_path):
    with pytest.raises(LabError, match=r"nowhere\.yaml"):
        load_experiment(tmp_path / "nowhere.yaml")


def test_unknown_override_names_the_nearest_key(tmp_path):
    with pytest.raises(LabError, match=r"variant\.yaml .*did you mean 'learning_rate'"):
        load_experiment(params_file(tmp_path, "profiles: {cpu: }"), "cpu", {"learnin_rate": 1})


# Seeds


def test_seed_is_golden():
    assert seed_for(0, "split") == 306515425121480513
    assert seed_for(0, "init", 1) == 4430110175706085387


def test_every_purpose_has_a_seed_of_its_own():
    purposes = [(seed, name, i) for seed in (0, 1) for name in ("init", "order", "mask") for i in range(50)]
    purposes += [(0, "init", "1"), (0, "init"), (0,), (1,), (0, "init", 1, 1), (0, "init1")]
    seeds = {seed_for(*purpose) for purpose in purposes}
    assert len(seeds) == len(purposes)
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"rewind_to": 200, "read_at": (100,), "eval_every": 100}, "read_at"),  # tickets start at iteration 200
        ({"rounds": 254}, "rounds"),
        ({"input_scaling": "unit_norm", "image_size": 14}, "input_scaling"),
    ],
)
def test_what_only_fails_after_hours_is_refused_at_once(values, key):
    with pytest.raises(LabError, match=key):
        Settings(**values)


def test_the_last_iteration_can_be_read_since_it_is_evaluated():
    assert Settings(iterations=25, eval_every=10, read_at=[20, 25]).read_at == (20, 25)
    with pytest.raises(LabError, match="read_at"):
        Settings(iterations=25, eval_every=10, read_at=[24])
