"""Steps replayed as a CUDA graph, shown on a CPU: warm-up leaves no trace, and steps equal those of a plain loop."""

from contextlib import nullcontext

import pytest
import torch

from lthcore.data.datasets import load
from lthcore.lottery.start import begin
from lthcore.models.build import build
from lthcore.models.weights import initial_weights
from lthcore.settings import Settings
from lthcore.training.engines import cuda_graph
from lthcore.training.engines.cuda_graph import Replay
from lthcore.training.engines.dense import Dense

RATES = [2**-9, 2**-10, 2**-11]  # exact in float32, like the tensor that a graph reads its rate from
RECIPES = {
    "adam, dropout": {"dropout": 0.3},
    "sgd": {"optimizer": "sgd", "momentum": 0.9, "augment": ("crop",)},
}


class Recorded:
    """Stands in for a captured graph: what is replayed is the step on the batch that the graph was captured with."""

    def __init__(self, replay: Replay) -> None:
        self.engine, self.data, self.batch = replay.engine, replay.data, replay.batch

    def replay(self) -> None:
        self.engine.step(self.data, self.batch)


def parts(recipe: dict) -> tuple:
    """Return data, batches, and an engine that has taken no step."""
    settings = Settings(dataset="digits", architecture="mlp", validation=200, device="cpu", engine="dense", **recipe)
    data = load(settings)
    model = build(settings, data.shape, 10)
    engine = Dense(settings, model, torch.device("cpu"), [begin(settings, 0, 0, initial_weights(model, settings, 1))])
    order = torch.randperm(len(data.train.labels), generator=torch.Generator().manual_seed(0))
    return data, order[: 3 * 60].view(1, 3, 60), engine


def state_of(engine: Dense) -> list[torch.Tensor]:
    slots = [tensor for slot in engine.optimizer.state.values() for tensor in slot.values()]
    return [t.clone() for t in (*engine.tensors, *slots)] + [noise.get_state() for noise in engine.noise]


@pytest.fixture
def on_a_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices: nullcontext())


@pytest.mark.parametrize("is_captured", [True, False])
@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_replayed_steps_equal_those_of_a_plain_loop(recipe, is_captured, on_a_cpu, monkeypatch):
    data, batches, plain = parts(recipe)
    for i, rate in enumerate(RATES):
        cuda_graph.set_rate(plain.optimizer, rate)
        plain.step(data, batches[:, i])

    def recorded(replay: Replay) -> Recorded:
        for _ in range(3):  # the warm-up
            replay.engine.step(data, replay.batch)
        if not is_captured:
            raise RuntimeError("this step cannot be captured")
        return Recorded(replay)

    monkeypatch.setattr(Replay, "_recorded", recorded)
    _, _, engine = parts(recipe)
    engine.forward = compiled = lambda x: engine.model(x)
    with nullcontext() if is_captured else pytest.warns(UserWarning, match="without a CUDA graph, .* be captured"):
        replay = Replay(engine, data, batches[:, 0])
    assert (engine.forward is compiled) == is_captured  # without a graph, the network is not compiled either
    for i, rate in enumerate(RATES):
        replay(batches[:, i], rate)
    assert all(torch.equal(a, b) for a, b in zip(state_of(engine), state_of(plain), strict=True))


def test_too_little_memory_is_not_taken_for_a_step_that_cannot_be_captured(on_a_cpu, monkeypatch):
    data, batches, engine = parts({})

    def recorded(replay: Replay) -> None:
        raise torch.OutOfMemoryError("memory")

    monkeypatch.setattr(Replay, "_recorded", recorded)
    with pytest.raises(torch.OutOfMemoryError):
        Replay(engine, data, batches[:, 0])
