"""Units: pruned with all incoming and outgoing weights; a compacted network computes the same as the sparse one."""

import pytest
import torch
from torch import nn
from torch.nn.utils import prune as torch_prune

from lthcore import masks
from lthcore.analysis.compaction import compact, export_onnx, sizes_of_tickets
from lthcore.costs import costs_of, multiply_adds
from lthcore.data.datasets import load
from lthcore.errors import LabError
from lthcore.lottery.search import find_tickets
from lthcore.models.build import build
from lthcore.models.weights import initial_weights
from lthcore.pruning.allocation import layer_rates
from lthcore.pruning.criteria import PruningContext
from lthcore.pruning.streams import columns, streams_of
from lthcore.pruning.units import _alive, prune_units, unit_activation
from lthcore.registry import CRITERIA, MODELS
from lthcore.runs.runner import run
from lthcore.settings import Settings

DIGITS = Settings(
    dataset="digits", architecture="lenet", widths=(40, 20), validation=200, device="cpu", iterations=40,
    eval_every=20, trials=1, rounds=2, arms=["ticket", "reinit"], reinit_draws=1, granularity="units",
    criterion="unit_l1", prune_fc=0.5,
)  # fmt: skip
NETWORKS = {
    "lenet": ({"widths": (30, 20)}, (1, 8, 8)),
    "conv2": ({"widths": (12, 10)}, (3, 8, 8)),
    "conv4": ({"widths": (12, 10), "padding": "valid"}, (3, 16, 16)),
    "conv6": ({"widths": (12, 10)}, (1, 8, 8)),
    "resnet20": ({}, (3, 8, 8)),
    "resnet18": ({}, (3, 8, 8)),
    "vgg_like": ({}, (3, 16, 16)),
}


def trained_like(architecture: str, seed: int) -> tuple[nn.Sequential, dict, tuple[int, int, int]]:
    """Return a network, weights with biases, norms and running statistics like after training, and its image shape."""
    values, shape = NETWORKS[architecture]
    settings = Settings(architecture=architecture, **values)
    model = build(settings, shape, 10)
    weights, g = initial_weights(model, settings, seed), torch.Generator().manual_seed(seed)
    for name, w in weights.items():
        if name.endswith("running_var"):
            w.copy_(torch.rand(w.shape, generator=g) + 0.5)
        elif w.ndim == 1:
            w.add_(0.3 * torch.randn(w.shape, generator=g))
    return model, weights, shape


def outputs(model: nn.Module, shape: tuple[int, int, int], n: int = 3) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(torch.randn(n, *shape, generator=torch.Generator().manual_seed(5)))


def equal_to_rounding(small: nn.Module, model: nn.Module, shape: tuple[int, int, int]) -> None:
    expected = outputs(model, shape)
    torch.testing.assert_close(outputs(small, shape), expected, atol=1e-5 * float(expected.abs().max() + 1), rtol=1e-4)


# PyTorch's own pruning as the oracle


@pytest.mark.parametrize("architecture", ["lenet", "conv2", "conv4"])
@pytest.mark.parametrize(("criterion", "power"), [("unit_l1", 1), ("unit_l2", 2)])
def test_the_units_with_the_smallest_norms_are_those_that_ln_structured_prunes(architecture, criterion, power):
    model, weights, _ = trained_like(architecture, 0)
    mask = masks.full_mask(weights)
    scores = CRITERIA[criterion].score(PruningContext(None, None, mask, weights, weights, weights, 0))
    pruned = prune_units(scores, mask, streams_of(model), {n: 0.3 * (not n.startswith("output")) for n in mask})
    for name in list(mask)[:-1]:
        layer, units = model.get_submodule(name.removesuffix(".weight")), len(mask[name])
        layer.weight.data = weights[name]
        torch_prune.ln_structured(layer, "weight", amount=int(0.3 * units), n=power, dim=0)
        alive, expected = (m.flatten(1).any(1) for m in (pruned[name], layer.weight_mask))
        assert torch.equal(alive, expected) and alive.sum() == units - int(0.3 * units)


# Compaction


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("architecture", ["lenet", "conv2", "conv4", "conv6", "resnet20"])
def test_a_compacted_network_computes_the_same(architecture, seed):
    """Masks have random densities, units without incoming or outgoing weights and, for some seeds, empty layers."""
    model, weights, shape = trained_like(architecture, seed)
    g = torch.Generator().manual_seed(seed)
    mask = {}
    for name, full in masks.full_mask(weights).items():
        density = float(torch.rand(1, generator=g)) ** 2
        m = torch.rand(full.shape, generator=g) < density
        m[torch.rand(len(m), generator=g) < 0.3] = False  # units without incoming weights
        m[:, torch.rand(m.shape[1], generator=g) < 0.3] = False  # units without outgoing weights
        mask[name] = m & (seed % 5 != 4 or torch.rand(1, generator=g) < 0.8)
    weights = masks.apply(mask, weights)
    model.load_state_dict(weights)
    small = compact(model, weights)
    equal_to_rounding(small, model, shape)
    size = sum(p.numel() for p in small.parameters())
    assert size < sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("architecture", ["resnet18", "vgg_like"])
def test_larger_networks_compact_too(architecture):
    model, weights, shape = trained_like(architecture, 1)
    for name, m in masks.full_mask(weights).items():
        m[torch.rand(len(m), generator=torch.Generator().manual_seed(1)) < 0.5] = name == "output.weight"
        weights[name] = weights[name] * m
    model.load_state_dict(weights)
    equal_to_rounding(compact(model, weights), model, shape)


@pytest.mark.parametrize("architecture", ["lenet", "conv2", "conv4", "resnet20"])
def test_a_ticket_with_an_empty_layer_becomes_a_small_network_with_constant_outputs(architecture):
    model, weights, shape = trained_like(architecture, 0)
    name = {"lenet": "fc2", "resnet20": "output"}.get(architecture, "conv2")
    weights[f"{name}.weight"].zero_()
    model.load_state_dict(weights)
    small = compact(model, weights)
    equal_to_rounding(small, model, shape)
    assert (outputs(small, shape) - outputs(small, shape)[0]).abs().max() < 1e-5
    assert multiply_adds(small, shape) < multiply_adds(model, shape) / 20


def test_batch_norms_without_scale_compact_too():
    """A dead channel is then constant behind its batch norm: zero if its running mean is positive, else a constant."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6, affine=False), nn.ReLU(), nn.Flatten(), nn.Linear(216, 10)
    ).eval()  # fmt: skip
    model[1].running_mean.copy_(torch.tensor([1.0, -1, 2, -2, 0, 0.5]))
    model[0].weight.data[:4] = 0.0
    small = compact(model, model.state_dict())
    assert small[0].weight.shape == (2, 1, 3, 3)
    equal_to_rounding(small, model, (1, 8, 8))


def test_whole_units_pruned_leave_a_network_of_just_those_sizes():
    model, weights, shape = trained_like("lenet", 0)
    weights["fc1.weight"][:20], weights["fc2.weight"][:, :20] = 0.0, 0.0
    weights["fc2.weight"][:15], weights["output.weight"][:, :15] = 0.0, 0.0
    weights["fc1.weight"][:, :14] = 0.0
    model.load_state_dict(weights)
    small = compact(model, weights)
    sizes = {name: tuple(w.shape) for name, w in small.named_parameters() if w.ndim == 2}
    assert sizes == {"fc1.weight": (10, 50), "fc2.weight": (5, 10), "output.weight": (10, 5)}
    equal_to_rounding(small, model, shape)


def test_a_dense_network_is_left_as_it_is():
    model, weights, shape = trained_like("resnet20", 0)
    small = compact(model, weights)
    assert {n: p.shape for n, p in small.named_parameters()} == {n: p.shape for n, p in model.named_parameters()}
    model.load_state_dict(weights)
    assert torch.equal(outputs(small, shape), outputs(model, shape))


def test_multiply_adds_count_every_use_of_a_weight():
    model = build(Settings(architecture="conv2"), (3, 32, 32), 10)
    assert costs_of(model, (3, 32, 32)).positions == {
        "conv1.weight": 1024, "conv2.weight": 1024, "fc1.weight": 1, "fc2.weight": 1, "output.weight": 1,
    }  # fmt: skip
    assert multiply_adds(model, (3, 32, 32)) == 1024 * (27 * 64 + 576 * 64) + 16_384 * 256 + 256 * 256 + 2560


def test_an_exported_network_gives_the_same_outputs(tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    model, weights, shape = trained_like("conv2", 0)
    weights["conv1.weight"][::2] = 0.0
    small = compact(model, weights)
    export_onnx(small, shape, tmp_path / "small.onnx")
    session = runtime.InferenceSession(tmp_path / "small.onnx", providers=["CPUExecutionProvider"])
    images = torch.randn(5, *shape)
    (logits,) = session.run(None, {"images": images.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(logits), small(images), atol=1e-4, rtol=1e-3)


class Pooled(nn.Module):
    """A network whose `forward` uses the number of images, as an int or as a size that an exporter can follow."""

    def __init__(self, fixed: bool) -> None:
        super().__init__()
        self.fixed, self.layer = fixed, nn.Linear(64, 10)

    def forward(self, x):
        return self.layer(x.reshape(len(x) if self.fixed else x.shape[0], -1))


def test_a_network_that_fixes_the_number_of_images_is_not_exported(tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    export_onnx(Pooled(fixed=False).eval(), (1, 8, 8), tmp_path / "free.onnx")
    with pytest.raises(LabError, match=r"fixes the number of images.*take x.shape\[0\]"):
        export_onnx(Pooled(fixed=True).eval(), (1, 8, 8), tmp_path / "fixed.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["free.onnx"]


def test_export_without_the_packages_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    model, weights, shape = trained_like("lenet", 0)
    with pytest.raises(LabError, match="pip install"):
        export_onnx(compact(model, weights), shape, tmp_path / "small.onnx")


# Pruning units


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("criterion", [name for name, c in CRITERIA.items() if c.prunes == "units"])
def test_units_go_whole_and_in_the_numbers_asked(criterion, scope):
    settings = DIGITS.changed(criterion=criterion, scope=scope)
    data = load(settings)
    for k, outcomes in enumerate(find_tickets(settings, data)):
        for replicate, state in outcomes.items():
            alive = {name: m.flatten(1).any(1) for name, m in state.mask.items()}
            left = [int(alive["fc1.weight"].sum()), int(alive["fc2.weight"].sum())]
            assert left == [[40, 20], [20, 10], [10, 5]][k] if scope == "layer" else sum(left) == [60, 30, 15][k]
            assert torch.equal(state.mask["fc2.weight"].any(0), alive["fc1.weight"])
            assert torch.equal(state.mask["output.weight"].any(0), alive["fc2.weight"])
            assert alive["output.weight"].all() and masks.is_masked(state.weights, state.mask)
            small = compact(build(settings, data.shape, 10), state.weights)
            assert small.fc1.out_features <= left[0] and small.fc2.out_features <= left[1]
            if replicate.arm == "reinit":
                assert masks.equal(state.mask, outcomes[replicate._replace(arm="ticket")].mask)


def test_the_lowest_scored_units_go_and_one_always_stays():
    settings = DIGITS.changed(prune_fc=0.99)
    model = build(settings, (1, 8, 8), 10)
    mask, streams, rates = masks.full_mask(model), streams_of(model), layer_rates(settings, model)
    worth = {name: torch.arange(float(len(m))) for name, m in mask.items()}
    for _ in range(3):
        mask = prune_units(worth, mask, streams, rates)
    assert mask["fc1.weight"].any(1).nonzero().tolist() == [[39]]
    assert mask["fc2.weight"].any(1).nonzero().tolist() == [[19]]


@pytest.mark.parametrize(
    "layers",
    [(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Flatten(), nn.Linear(120, 10)),
     (nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(2), nn.Linear(36, 10))],
    ids=["a dense layer along the width", "channels that stay apart"],
)  # fmt: skip
def test_units_of_images_that_are_not_flattened_are_not_guessed(layers):
    with pytest.raises(LabError, match=r"^units: .* (are its inputs known|is none of them)$"):
        streams_of(nn.Sequential(*layers))


def test_units_are_pruned_as_weights_would_be():
    """The oracle is one unit after the other, the lowest first."""
    settings = DIGITS.changed(prune_fc=0.37, scope="global")
    model = build(settings, (1, 8, 8), 10)
    mask, streams, rates = masks.full_mask(model), streams_of(model), layer_rates(settings, model)
    worth = {name: torch.rand(len(m), generator=torch.Generator().manual_seed(0)) for name, m in mask.items()}
    pruned = prune_units(worth, mask, streams, rates, "global")
    order = sorted((float(worth[f"fc{i}.weight"][k]), i, k) for i, n in ((1, 40), (2, 20)) for k in range(n))
    for rank, (_, i, k) in enumerate(order):
        assert bool(pruned[f"fc{i}.weight"][k].any()) == (rank >= 22)  # floor(0.37 x 60) units go


def test_residual_streams_inputs_and_outputs_are_left_whole():
    settings = DIGITS.changed(architecture="resnet20", prune_conv=0.5)
    model = build(settings, (3, 8, 8), 10)
    mask = masks.full_mask(model.state_dict())
    pruned = prune_units(
        {n: torch.rand(len(m)) for n, m in mask.items()}, mask, streams_of(model), layer_rates(settings, model)
    )
    whole = {name for name, m in pruned.items() if m.all()}
    assert {"conv.weight", "output.weight", "stage2_block1.shortcut.weight"} <= whole
    inner = pruned["stage1_block1.conv1.weight"].flatten(1).any(1)
    assert inner.sum() == 8 and torch.equal(columns(pruned["stage1_block1.conv2.weight"], 16).any(2).any(0), inner)


def test_a_layer_of_rate_zero_keeps_its_units_in_global_scope_too():
    settings = DIGITS.changed(architecture="conv2", scope="global", prune_conv=0.0, prune_fc=0.3)
    model = build(settings, (1, 8, 8), 10)
    mask = masks.full_mask(model.state_dict())
    worth = {n: torch.zeros(len(m)) if n.startswith("conv") else torch.rand(len(m)) for n, m in mask.items()}
    pruned = prune_units(worth, mask, streams_of(model), layer_rates(settings, model), settings.scope)
    assert pruned["conv1.weight"].all() and pruned["conv2.weight"].all() and not pruned["fc1.weight"].all()


@pytest.mark.parametrize("criterion", ["unit_l1", "unit_activation"])
def test_units_of_frozen_layers_and_those_that_frozen_layers_read_are_left_whole(criterion, monkeypatch):
    def frozen(settings, shape, classes):
        model = build(settings.changed(architecture="lenet", widths=(40, 20, 10)), shape, classes)
        model.fc2.requires_grad_(False)
        return model

    monkeypatch.setitem(MODELS, "frozen", frozen)
    settings = DIGITS.changed(architecture="frozen", widths=(), criterion=criterion, arms=["ticket"], rounds=1)
    *_, last = find_tickets(settings, load(settings))
    (ticket,) = last.values()
    assert {name: int(m.any(1).sum()) for name, m in ticket.mask.items()} == {
        "fc1.weight": 40, "fc3.weight": 5, "output.weight": 10
    }  # fmt: skip


def test_mean_activation_is_read_behind_the_norm():
    settings = DIGITS.changed(architecture="resnet20", criterion="unit_activation")
    data = load(settings)
    weights = initial_weights(build(settings, data.shape, 10), settings, 0)
    weights["stage1_block1.norm1.bias"].fill_(-100.0)
    worth = unit_activation(PruningContext(settings, data, masks.full_mask(weights), weights, weights, weights, 0))
    assert not worth["stage1_block1.conv1.weight"].any() and worth["stage1_block2.conv1.weight"].any()


def test_criteria_of_weights_and_of_units_are_told_apart():
    with pytest.raises(LabError, match="unit_l1"):
        run(DIGITS.changed(criterion="magnitude"), "/nowhere")


def test_sizes_of_tickets_are_those_of_the_masked_and_of_the_compacted_network(tmp_path):
    """Units are halved in each round: 40 and 20, 20 and 10, 10 and 5."""
    settings = DIGITS.changed(arms=["ticket"])
    run(settings, tmp_path, quiet=True)
    table = sizes_of_tickets(tmp_path, settings)
    whole = [64 * a + a + a * b + b + b * 10 + 10 for a, b in ((40, 20), (20, 10), (10, 5))]
    assert table["parameters"].tolist() == [whole[0]] * 3 and table["compacted"].tolist() == whole
    assert table["multiply-adds"].nunique() == 1
    assert table["multiply-adds, compacted"].tolist() == [
        64 * a + a * b + b * 10 for a, b in ((40, 20), (20, 10), (10, 5))
    ]


def test_a_unit_is_alive_if_something_reaches_it_and_something_reads_it():
    mask = {name: torch.ones(*shape, dtype=torch.bool) for name, shape in (("a", (4, 2)), ("b", (3, 4)), ("c", (2, 4)))}
    mask["a"][0] = False  # unit 0 is not reached
    mask["b"][:, 1:3] = False  # units 1 and 2 are not read by b, and unit 2 neither by c
    mask["c"][:, 2] = False
    assert _alive(mask, "a", ["b", "c"]).tolist() == [False, True, False, True]
