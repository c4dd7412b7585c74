"""Any module: a transformer and a torchvision network are pruned, rewound, resumed and written to tables."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from lthcore import masks
from lthcore.analysis.compaction import compact
from lthcore.analysis.ticket_tables import write_ticket_tables
from lthcore.analysis.tickets import path_count
from lthcore.costs import costs_of
from lthcore.data import datasets
from lthcore.data.datasets import load
from lthcore.errors import LabError
from lthcore.lottery.checks import check_settings
from lthcore.models.build import build, outline
from lthcore.models.layers import Residual
from lthcore.models.prunable import kind_of, kinds_of, prunable
from lthcore.models.weights import initial_weights
from lthcore.pruning.allocation import layer_rates
from lthcore.registry import MODELS
from lthcore.runs.checkpoints import load_state
from lthcore.runs.runner import run
from lthcore.settings import DynamicSettings, Settings
from lthcore.sources.dataset import DATASETS, Raw
from lthcore.training.engines import conv
from lthcore.training.engines.chain import is_chain
from lthcore.training.engines.dense import Dense, evaluate
from lthcore.training.loop import engine_for

SHAPE, WIDTH, TOKENS = (1, 8, 8), 16, 16


class Transformer(nn.Module):
    """Small vision transformer: 2x2 patches with learned positions, two encoder layers, a head on the mean token."""

    def __init__(self, classes: int, dropout: float = 0.1) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 2 * WIDTH, dropout, batch_first=True)
        self.patches = nn.Conv2d(1, WIDTH, 2, 2)
        self.position = nn.Parameter(0.02 * torch.randn(1, TOKENS, WIDTH))
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.output = nn.Linear(WIDTH, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.position
        return self.output(self.encoder(tokens).mean(1))


class Words(nn.Module):
    """Network that reads grey values as words: an embedding, a gate that is a bare matrix, and a head named `head`."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.words, self.gate = nn.Embedding(32, 4), nn.Parameter(torch.eye(4))
        self.scale = nn.Parameter(torch.full((4,), 1e-2))
        self.hidden, self.head = nn.Linear(4, 6), nn.Linear(6, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        words = self.words((x.flatten(1) * 4).round().long().clamp(0, 31)).mean(1)
        return self.head(torch.relu(self.hidden(words @ self.gate * self.scale)))


class Falling(nn.Module):
    """Network whose layers are not in alphabetical order, as in a ResNet."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem, self.body, self.output = nn.Linear(64, 12), nn.Linear(12, 8), nn.Linear(8, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.output(torch.relu(self.body(torch.relu(self.stem(x.flatten(1))))))


class Idle(nn.Module):
    """Network with a dense layer that its outputs do not use, and which therefore has no gradient."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem, self.unused, self.output = nn.Linear(64, 12), nn.Linear(12, 4), nn.Linear(12, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.output(torch.relu(self.stem(x.flatten(1))))


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register the models under test names, and train in this process."""
    monkeypatch.setenv("LTH_WORKERS", "1")
    monkeypatch.setitem(MODELS, "transformer", lambda settings, shape, classes: Transformer(classes))
    monkeypatch.setitem(MODELS, "words", lambda settings, shape, classes: Words(classes))
    monkeypatch.setitem(MODELS, "falling", lambda settings, shape, classes: Falling(classes))
    monkeypatch.setitem(MODELS, "idle", lambda settings, shape, classes: Idle(classes))
    monkeypatch.setitem(
        MODELS, "mobilenet", lambda settings, shape, classes: torchvision.models.mobilenet_v3_small(num_classes=classes)
    )


@pytest.fixture
def few_colour_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace CIFAR-10 by 60 training images and 20 test images of noise."""
    random = np.random.default_rng(0)
    parts = [p for n in (60, 20) for p in (random.integers(0, 256, (n, 3, 32, 32), np.uint8), np.arange(n) % 10)]
    raw = Raw(*parts, "noise")
    record = replace(DATASETS["cifar10"], reader=lambda root: raw, n_train=60, n_test=20, test_here=None)
    monkeypatch.setitem(DATASETS, "cifar10", record)


SMALL = Settings(
    dataset="digits", architecture="transformer", validation=200, iterations=20, eval_every=10, learning_rate=3e-3,
    arms=("ticket", "reinit", "oneshot", "by_snip"), reinit_draws=1, trials=1, rounds=2, device="cpu",
)  # fmt: skip
MOBILE = SMALL.changed(
    dataset="cifar10", architecture="mobilenet", validation=12, iterations=2, eval_every=1, batch_size=8,
    arms=("ticket", "reinit"),
)  # fmt: skip


def network(name: str, shape: tuple[int, int, int] = SHAPE) -> nn.Module:
    return build(SMALL.changed(architecture=name), shape, 10)


# What is prunable, and what kind it is


def test_of_a_transformer_projections_and_dense_layers_are_prunable_and_positions_norms_and_biases_are_not():
    layers = [f"encoder.layers.{i}" for i in range(2)]
    expected = {"patches.weight": "conv", "output.weight": "output"} | {
        f"{layer}.{name}": "fc"
        for layer in layers
        for name in ("self_attn.in_proj_weight", "self_attn.out_proj.weight", "linear1.weight", "linear2.weight")
    }
    assert kinds_of(network("transformer")) == expected


def test_embeddings_and_bare_parameters_have_no_mask_and_the_last_dense_layer_is_the_output():
    assert kinds_of(network("words")) == {"hidden.weight": "fc", "head.weight": "output"}


def test_of_mobilenet_all_convolutions_and_both_dense_layers_are_prunable():
    kinds = kinds_of(network("mobilenet", (3, 32, 32)))
    layers = dict(network("mobilenet", (3, 32, 32)).named_modules())
    convolutions = [f"{name}.weight" for name, layer in layers.items() if isinstance(layer, nn.Conv2d)]
    assert kinds == dict.fromkeys(convolutions, "conv") | {"classifier.0.weight": "fc", "classifier.3.weight": "output"}
    settings = MOBILE.changed(prune_conv=0.1, prune_fc=0.2, prune_output=0.3)
    rates = layer_rates(settings, network("mobilenet", (3, 32, 32)))
    assert rates == {name: {"conv": 0.1, "fc": 0.2, "output": 0.3}[kind] for name, kind in kinds.items()}


def test_a_model_may_say_itself_what_is_prunable_and_of_what_kind():
    model = network("words")
    model.prunable = lambda layer, name: name == "gate" or prunable(layer, name)
    model.kind_of = lambda layer, name: "shortcut" if name == "gate" else kind_of(layer, name)
    assert kinds_of(model) == {"gate": "shortcut", "hidden.weight": "fc", "head.weight": "fc"}

    class Own(Words):
        def prunable(self, layer: nn.Module, name: str) -> bool:
            return layer is self.hidden

    assert kinds_of(Own(10)) == {}.fromkeys(["hidden.weight"], "fc")


def test_a_kind_that_there_is_not_and_a_model_without_anything_to_prune_are_one_line(monkeypatch):
    model = network("words")
    model.kind_of = lambda layer, name: "attention"
    with pytest.raises(LabError, match=r"kind of hidden.weight = 'attention'.*conv, shortcut, fc, output"):
        kinds_of(model)
    monkeypatch.setitem(MODELS, "words", lambda *_: nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64)))
    with pytest.raises(LabError, match="nothing in Sequential is prunable"):
        check_settings(SMALL.changed(architecture="words"))


def test_weights_under_two_names_are_one_line(monkeypatch):
    def tied(*_: object) -> nn.Module:
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10))
        model[2].weight = model[1].weight
        return model

    monkeypatch.setitem(MODELS, "words", tied)
    with pytest.raises(LabError, match=r"2\.weight under two names"):
        outline(SMALL.changed(architecture="words"), SHAPE, 10)


def test_a_model_that_reads_numbers_as_it_is_made_has_an_outline_too(monkeypatch):
    """Models may read values of tensors in their constructor, for example rates of stochastic depth.

    Tensors on the meta device, on which outlines are built otherwise, have no values.
    """

    def reading(*_: object) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, int(torch.linspace(0, 5, 3)[1].item() * 4)))

    monkeypatch.setitem(MODELS, "words", reading)
    assert outline(SMALL.changed(architecture="words"), SHAPE, 10)[1].out_features == 10


def test_units_of_such_a_network_are_not_known_and_that_is_said():
    with pytest.raises(LabError, match="encoder is none of them; take granularity = weights"):
        check_settings(SMALL.changed(granularity="units", criterion="unit_l1", arms=("ticket",)))
    with pytest.raises(LabError, match=r"encoder is none of them$"):
        compact(network("transformer"), network("transformer").state_dict())


# Initial weights


def test_what_is_not_pruned_is_drawn_as_the_model_draws_it_and_by_the_seed():
    model = network("transformer")
    one, same, other = (initial_weights(model, SMALL, seed) for seed in (1, 1, 2))
    assert all(torch.equal(w, same[name]) for name, w in one.items())
    assert not torch.equal(one["position"], other["position"])
    assert one["position"].std().item() == pytest.approx(0.02, rel=0.15)
    assert one["encoder.layers.0.norm1.weight"].eq(1).all() and not one["encoder.layers.0.self_attn.in_proj_bias"].any()
    words = initial_weights(network("words"), SMALL, 1)
    assert words["words.weight"].std().item() == pytest.approx(1, rel=0.2)
    assert words["scale"].eq(1e-2).all()  # a constant in the model, so it is not drawn
    spread = math.sqrt(2 / (3 * WIDTH + WIDTH))
    assert one["encoder.layers.0.self_attn.in_proj_weight"].std().item() == pytest.approx(spread, rel=0.1)


def test_a_model_is_built_with_the_same_numbers_each_time_and_leaves_the_generator_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one = network("transformer")
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert torch.equal(one.position, network("transformer").position)


# Costs


def test_multiply_adds_of_a_transformer_are_those_by_hand_with_attentions_own():
    """Every matrix is applied to each token. A head has L x L products of queries and keys, and as many with values."""
    projections, feed_forward = 4 * WIDTH * WIDTH * TOKENS, 2 * WIDTH * 2 * WIDTH * TOKENS
    attention = 2 * TOKENS * TOKENS * WIDTH
    costs = costs_of(network("transformer"), SHAPE)
    assert costs.multiply_adds == 4 * WIDTH * TOKENS + 2 * (projections + feed_forward + attention) + WIDTH * 10
    assert costs.without_weights == 2 * attention and not costs.uncounted
    times = set(costs.positions.values())
    assert times == {TOKENS, 1} and costs.positions["output.weight"] == 1
    half = {name: m.numel() // 2 for name, m in masks.full_mask(network("transformer")).items()}
    assert costs.of(half) == 2 * attention + (costs.multiply_adds - 2 * attention) // 2


def test_multiply_adds_of_mobilenet_are_those_of_its_convolutions_and_dense_layers():
    """A weight of a grouped convolution is used once per pixel, however few channels its filter reads."""
    model, seen = network("mobilenet", (3, 32, 32)).eval(), {}
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(
                lambda layer, _, out, name=name: seen.update({name: layer.weight.numel() * out[0, 0].numel()})
            )
    model(torch.zeros(1, 3, 32, 32))
    costs = costs_of(network("mobilenet", (3, 32, 32)), (3, 32, 32))
    assert (costs.multiply_adds, costs.without_weights, costs.uncounted) == (sum(seen.values()), 0, ())


def test_what_is_not_counted_is_said_by_name(tmp_path, monkeypatch, capsys):
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rows, self.idle, self.output = nn.GRU(8, 4, batch_first=True), nn.Linear(3, 3), nn.Linear(4, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                scale = torch.linalg.matrix_norm(self.rows.weight_hh_l0)
            return self.output(self.rows(x[:, 0])[0][:, -1] / scale)

    monkeypatch.setitem(MODELS, "words", lambda *_: Recurrent())
    uncounted = costs_of(network("words"), SHAPE).uncounted
    assert "idle.weight" in uncounted and "rows.weight_hh_l0" in uncounted and "output.weight" not in uncounted
    run(SMALL.changed(architecture="words", rounds=0, iterations=1, eval_every=1), tmp_path, quiet=True)
    assert "idle.weight are not counted" in capsys.readouterr().err


def test_parameters_without_a_mask_are_said_by_name(tmp_path, monkeypatch, capsys):
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rows, self.words, self.output = nn.LSTM(8, 16, 2), nn.Embedding(3, 2), nn.Linear(16, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.output(self.rows(x[:, 0].transpose(0, 1))[0][-1])

    monkeypatch.setitem(MODELS, "words", lambda *_: Recurrent())
    short = SMALL.changed(rounds=0, iterations=1, eval_every=1)
    run(short.changed(architecture="words"), tmp_path / "words", quiet=True)
    note = (
        "note: 160 of 4,016 parameters have a mask; without one: rows.weight_ih_l0, rows.weight_hh_l0, "
        "rows.weight_ih_l1, rows.weight_hh_l1 and 1 more\n"
    )
    assert note in capsys.readouterr().err
    for architecture in ("falling", "mlp"):
        run(short.changed(architecture=architecture), tmp_path / architecture, quiet=True)
        assert "have a mask" not in capsys.readouterr().err


# Engines


def test_no_engine_takes_a_network_for_a_chain_that_it_does_not_understand():
    class Doubled(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    class Backwards(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return -super().forward(x)

    def chain(*layers: nn.Module) -> nn.Sequential:
        return nn.Sequential(nn.Flatten(), *layers)

    assert is_chain(chain(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10)))
    relu, tied = nn.ReLU(), nn.Linear(64, 64)
    strange = [
        chain(Doubled(64, 10)), Backwards(nn.Flatten(), nn.Linear(64, 10)), chain(nn.Linear(64, 8), nn.GELU(),
        nn.Linear(8, 10)), nn.Sequential(nn.Flatten(2), nn.Linear(64, 10)), chain(tied, relu, tied),
        nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Flatten(), nn.Linear(64, 10)),
        network("transformer"), network("words"), network("mobilenet", (3, 32, 32)), nn.Linear(64, 10),
    ]  # fmt: skip
    assert not any(map(is_chain, strange))
    picky = chain(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
    picky.prunable = lambda layer, name: name.startswith("1")
    assert not is_chain(picky)


def test_the_convolutional_engine_takes_no_layer_for_another():
    def applies(*layers: nn.Module, kind: type[nn.Sequential] = nn.Sequential) -> bool:
        head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
        return conv.applies(MOBILE, kind(nn.Conv2d(3, 4, 3), *layers, *head), torch.device("cpu"))

    class Scaled(nn.BatchNorm2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    class Backwards(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return -super().forward(x)

    assert applies(nn.BatchNorm2d(4), nn.ReLU()) and applies(nn.ReLU(), nn.MaxPool2d(2))
    assert not applies(nn.BatchNorm2d(4, affine=False), nn.ReLU())
    assert not applies(nn.BatchNorm2d(4, track_running_stats=False), nn.ReLU())
    assert not applies(Scaled(4), nn.ReLU())
    assert not applies(nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True))
    assert not applies(nn.ReLU(), kind=Backwards)
    unflattened = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Linear(30, 10))
    assert not conv.applies(MOBILE, unflattened, torch.device("cpu"))


def test_such_networks_train_as_they_stand_and_a_mask_that_forgets_a_layer_is_refused(few_colour_images):
    data = datasets.load(SMALL)
    state = run_start(SMALL, data)
    assert type(engine_for(SMALL, data, [state])) is Dense
    del state.mask["output.weight"]
    with pytest.raises(LabError, match=r"output\.weight: mask None"):
        engine_for(SMALL, data, [state])
    mobile = datasets.load(MOBILE)
    assert type(engine_for(MOBILE, mobile, [run_start(MOBILE, mobile)])) is Dense


def run_start(settings: Settings, data: datasets.Data):
    from lthcore.lottery.search import untrained_networks

    return next(iter(untrained_networks(settings, data).values()))


# Whole runs


@pytest.mark.parametrize("name", ["transformer", "mobilenet"])
def test_it_is_pruned_over_two_rounds_with_rewinding_and_written_to_all_tables(name, tmp_path, few_colour_images):
    settings = SMALL if name == "transformer" else MOBILE
    rounds, curves = run(settings, tmp_path, quiet=True)
    ticket = rounds[rounds["arm"] == "ticket"].set_index("round")
    assert ticket["percent_left"].is_monotonic_decreasing and ticket.loc[0, "percent_left"] == 100
    assert ticket["multiply_adds"].is_monotonic_decreasing and (curves["test_loss"] > 0).all()
    model = build(settings, datasets.image_shape(settings), 10)
    assert ticket.loc[0, "multiply_adds"] == costs_of(model, datasets.image_shape(settings)).multiply_adds
    dense, _, _ = load_state(tmp_path / "tickets" / "ticket-trial0-draw0-round00.safetensors")
    last, _, _ = load_state(tmp_path / "tickets" / "ticket-trial0-draw0-round02.safetensors")
    assert last.mask.keys() == kinds_of(model).keys()
    rewound = {n: w * last.mask[n] if n in last.mask else w for n, w in dense.start.items()}
    assert all(torch.equal(w, rewound[n]) for n, w in last.start.items())
    moved = [n for n, w in last.weights.items() if w.is_floating_point() and not torch.equal(w, last.start[n])]
    assert set(last.mask) <= set(moved)
    write_ticket_tables(tmp_path)
    structure = pd.read_csv(tmp_path / "structure.csv")
    assert set(structure["layer"]) == {layer.removesuffix(".weight") for layer in last.mask}
    assert (tmp_path / "distributions.csv").exists()


def test_a_transformer_learns_and_its_dropout_follows_from_the_seed(tmp_path):
    settings = SMALL.changed(iterations=150, eval_every=150, arms=("ticket",), rounds=0)
    one, _ = run(settings, tmp_path / "one", quiet=True)
    torch.manual_seed(7)  # torch's own dropout draws from the global generator
    other, _ = run(settings, tmp_path / "other", quiet=True)
    pd.testing.assert_frame_equal(one.drop(columns="seconds"), other.drop(columns="seconds"))
    assert one["final_test_accuracy"].item() > 0.5


def test_stopped_again_and_again_it_ends_as_it_would_have(tmp_path, in_parts):
    settings = SMALL.changed(arms=("ticket", "oneshot"), iterations=30)
    whole, _ = run(settings, tmp_path / "whole", quiet=True)
    parts = in_parts(settings, tmp_path / "parts")
    pd.testing.assert_frame_equal(whole.drop(columns="seconds"), parts.drop(columns="seconds"))


def test_it_is_pruned_while_it_trains_too(tmp_path):
    given = {k: v for k, v in SMALL.given().items() if k in DynamicSettings.model_fields}
    settings = DynamicSettings(**given | {"iterations": 60, "sparsity": 0.5, "prune_every": 20, "scope": "global"})
    rounds, _ = run(settings, tmp_path, quiet=True)
    assert rounds["percent_left"].item() == pytest.approx(50, abs=0.1)


SGD = {"optimizer": "sgd", "momentum": 0.9, "learning_rate": 0.1, "clip_norm": 1.0}


@pytest.mark.parametrize("values", [{}, SGD], ids=["adam", "sgd"])
def test_a_layer_that_the_outputs_do_not_use_is_pruned_but_not_trained(values, tmp_path, in_parts):
    arms = ("ticket", "continued", "by_snip", "by_grasp", "by_synflow")
    settings = SMALL.changed(architecture="idle", arms=arms, **values)
    rounds = in_parts(settings, tmp_path)
    assert set(rounds["arm"]) == set(arms) and rounds["round"].max() == settings.rounds
    ticket, _, _ = load_state(tmp_path / "tickets" / "ticket-trial0-draw0-round02.safetensors")
    assert torch.equal(ticket.weights["unused.weight"], ticket.start["unused.weight"])
    assert not torch.equal(ticket.weights["stem.weight"], ticket.start["stem.weight"])
    assert 0 < ticket.mask["unused.weight"].sum() < ticket.mask["unused.weight"].numel()


RIGL = {"regrowth": "gradient", "sparsity_schedule": "constant"}


@pytest.mark.parametrize("values", [{}, RIGL], ids=["gradual", "rigl"])
def test_a_layer_that_the_outputs_do_not_use_is_pruned_during_training_too(values, tmp_path):
    given = {k: v for k, v in SMALL.given().items() if k in DynamicSettings.model_fields}
    given |= {"architecture": "idle", "iterations": 60, "sparsity": 0.5, "prune_every": 20}
    rounds, _ = run(DynamicSettings(**given, **values), tmp_path, quiet=True)
    assert rounds["percent_left"].item() == pytest.approx(50, abs=0.1)


def test_weights_that_a_matrix_product_reads_in_parts_are_counted_by_their_parts():
    """With fewer queries than keys and values, parts of the input projection are applied to fewer tokens."""

    class Across(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attend, self.output = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            rows = x[:, 0]
            return self.output(F.relu(self.attend(rows[:, :2], rows, rows, need_weights=False)[0]).mean(1))

    costs = costs_of(Across(), SHAPE)
    assert costs.positions["attend.in_proj_weight"] == pytest.approx((2 + 8 + 8) / 3)
    assert costs.without_weights == 2 * 2 * 8 * 8
    assert costs.of({"attend.in_proj_weight": 192, "attend.out_proj.weight": 64, "output.weight": 80}) == (
        costs.multiply_adds
    )


# Layers that users' networks may have


def small(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * 8 * 8, 10))


def shared_relu() -> nn.Module:
    relu = nn.ReLU()
    return small(nn.Conv2d(1, 4, 3, padding=1), relu, nn.Conv2d(4, 4, 3, padding=1), relu)


def dilated() -> nn.Module:
    return small(nn.Conv2d(1, 4, 3, padding="same", dilation=2), nn.ReLU())


def frozen() -> nn.Module:
    model = small(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU())
    model[0].requires_grad_(False)
    return model


def frozen_chain() -> nn.Module:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))
    model[1].requires_grad_(False)
    return model


class Volumes(nn.Module):
    """Network with a 3D convolution, which reads an image as a volume of depth 1."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.output = nn.Conv3d(1, 4, 3, padding=1), nn.Linear(4 * 64, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.output(self.conv(x[:, :, None]).relu().flatten(1))


def rows_first() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Flatten(), nn.Linear(64, 10))


STRANGERS = {"shared_relu": shared_relu, "dilated": dilated, "frozen": frozen, "frozen_chain": frozen_chain,
             "volumes": Volumes, "rows_first": rows_first}  # fmt: skip


@pytest.mark.parametrize("name", STRANGERS)
def test_whatever_engine_trains_it_a_network_is_trained_as_it_is(name, monkeypatch, tmp_path):
    """Engines `auto` and `stack` give the validation losses of plain PyTorch (`dense`), and frozen weights stay."""
    monkeypatch.setitem(MODELS, name, lambda settings, shape, classes: STRANGERS[name]())
    settings = Settings(
        dataset="digits", architecture=name, validation=200, iterations=10, eval_every=5, trials=1, rounds=1,
        arms=["ticket"], device="cpu", learning_rate=1e-2,
    )  # fmt: skip
    losses = {
        engine: run(settings.changed(engine=engine), tmp_path / engine, quiet=True)[1]["val_loss"]
        for engine in ("auto", "stack", "dense")
    }
    for engine in ("auto", "stack"):
        assert np.allclose(losses[engine], losses["dense"], atol=1e-4)
    built = build(settings, SHAPE, 10)
    for path in sorted((tmp_path / "auto" / "tickets").glob("*.safetensors")):
        state = load_state(path)[0]
        for parameter, weight in built.named_parameters():
            assert torch.equal(weight, state.weights[parameter]) != weight.requires_grad


@pytest.mark.parametrize(
    ("layers", "what"),
    [
        ((nn.Conv2d(1, 4, 3, padding=1),), "not followed by a ReLU"),
        ((nn.Conv2d(1, 4, 3, padding=2, dilation=2), nn.ReLU()), "is none of them"),
        ((nn.Conv2d(1, 4, 3, padding=1, padding_mode="reflect"), nn.ReLU()), "is none of them"),
        (
            (nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.ReLU()),
            "is none of them",
        ),
    ],
    ids=["not rectified", "dilated", "reflected", "in groups"],
)
def test_what_compaction_does_not_know_it_refuses(layers, what):
    model = small(*layers)
    with pytest.raises(LabError, match=what):
        compact(model, model.state_dict())


@pytest.mark.parametrize(
    "layers",
    [
        (nn.BatchNorm2d(1), nn.Conv2d(1, 4, 3, padding=1), nn.ReLU()),
        (nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.ReLU()),
        (nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(4)),
    ],
    ids=["at the inputs", "twice", "behind a ReLU"],
)
def test_units_of_a_network_with_a_batch_norm_that_follows_no_convolution_are_not_known(layers, monkeypatch):
    model = small(*layers)
    with pytest.raises(LabError, match=r"is a batch norm that does not follow a convolution directly"):
        compact(model, model.state_dict())
    monkeypatch.setitem(MODELS, "words", lambda *_: model)
    settings = SMALL.changed(architecture="words", arms=("ticket",))
    check_settings(settings)
    with pytest.raises(LabError, match="take granularity = weights"):
        check_settings(settings.changed(granularity="units", criterion="unit_l1"))


@pytest.mark.parametrize("block", [Residual(1, 1, 1), Residual(1, 4, 1)], ids=["identity", "projection"])
def test_units_of_a_network_that_begins_with_a_residual_block_are_not_known(block):
    model = nn.Sequential(block, nn.Flatten(), nn.LazyLinear(10))
    model(torch.zeros(2, *SHAPE))
    with pytest.raises(LabError, match="0 is a residual block that reads the inputs of the network"):
        compact(model, model.state_dict())


def test_compaction_refuses_a_network_in_which_a_module_stands_twice():
    with pytest.raises(LabError, match="twice"):
        compact(shared_relu(), shared_relu().state_dict())


def test_layers_keep_their_order_in_a_file_so_that_random_masks_do_not_change_when_a_run_goes_on(tmp_path):
    arms = ("ticket", "random", "by_random", "resampled")
    whole = SMALL.changed(architecture="falling", arms=arms, random_draws=1, reinit_draws=1)
    first, _ = run(whole, tmp_path / "whole", quiet=True)
    run(whole.changed(arms=("ticket",), rounds=1), tmp_path / "parts", quiet=True)
    again, _ = run(whole, tmp_path / "parts", quiet=True)
    pd.testing.assert_frame_equal(first.drop(columns="seconds"), again.drop(columns="seconds"))
    state, _, _ = load_state(tmp_path / "whole" / "tickets" / "ticket-trial0-draw0-round01.safetensors")
    assert list(state.mask) == list(kinds_of(Falling(10))) and list(state.weights) == list(Falling(10).state_dict())


def test_paths_are_counted_in_the_order_of_the_layers(tmp_path):
    run(SMALL.changed(architecture="falling", arms=("ticket",)), tmp_path, quiet=True)
    state, _, _ = load_state(tmp_path / "tickets" / "ticket-trial0-draw0-round02.safetensors")
    paths, expected = path_count(state.mask)
    assert paths > 0 and expected > 0


def test_an_evaluation_leaves_a_part_that_never_trains_as_it_is():
    settings, data = SMALL.changed(architecture="falling"), load(SMALL)
    model = build(settings, data.shape, data.classes)
    model.body.eval()
    evaluate(model, data.test)
    assert model.training and model.stem.training and not model.body.training
