"""Training steps captured as a CUDA graph and replayed."""

import warnings
import weakref
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from lthcore.data.datasets import Data


class Steppable(Protocol):
    """Attributes and methods that an engine must have for `Replay`."""

    optimizer: torch.optim.Optimizer
    tensors: list[Tensor]  # all tensors that a step changes, except the optimizer's
    noise: list[torch.Generator]
    forward: Callable

    def step(self, data: Data, batch: Tensor) -> None:
        """Take one step on a batch (K, batch) of image indices."""


class Replay:
    """Repeats the training step of an engine on a GPU as a CUDA graph, or by plain calls if it cannot be captured."""

    def __init__(self, engine: Steppable, data: Data, batch: Tensor) -> None:
        """Set up static inputs like `batch` (K, batch), warm up, and capture the step."""
        # The engine holds a reference to this object. A strong reference back would make a cycle, and leave both, with
        # all tensors of the training run, to the garbage collector. It counts objects and not bytes, so it runs late.
        self.engine, self.data = weakref.proxy(engine), data
        self.batch, self.graph = batch.clone(), None
        self.rate = torch.tensor(0.0, device=batch.device)
        set_rate(engine.optimizer, self.rate)
        try:
            with torch.cuda.device(batch.device):  # streams and graphs use the current device
                self._capture()
        except torch.OutOfMemoryError:
            raise  # lthcore/training/parallel.py tries again with fewer replicates
        except RuntimeError as error:
            warnings.warn(f"training without a CUDA graph, which is slower: {error}", stacklevel=2)
            self.graph, engine.forward = None, getattr(engine, "model", engine.forward)  # not compiled either

    def __call__(self, batch: Tensor, rate: float) -> None:
        """Take one step on a batch (K, batch) of image indices with learning rate `rate`."""
        self.rate.fill_(rate)
        if self.graph:
            self.batch.copy_(batch)
            self.graph.replay()
        else:
            self.engine.step(self.data, batch)

    def _capture(self) -> None:
        """Capture a step, and restore everything that the warm-up changed."""
        engine = self.engine
        weights = [tensor.clone() for tensor in engine.tensors]
        slots = {p: {k: t.clone() for k, t in slot.items()} for p, slot in engine.optimizer.state.items()}
        noise = [generator.get_state() for generator in engine.noise]
        try:
            with torch.random.fork_rng([self.batch.device]):  # layers may draw from torch's own generators
                graph = self._recorded()
        finally:  # after a failed capture, too: it has taken warm-up steps
            self._restore(weights, slots, noise)
        self.graph = graph

    def _recorded(self) -> torch.cuda.CUDAGraph:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self.engine.step(self.data, self.batch)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        for generator in self.engine.noise:
            graph.register_generator_state(generator)
        with torch.cuda.graph(graph):
            self.engine.step(self.data, self.batch)
        return graph

    def _restore(self, weights: list[Tensor], slots: dict[Tensor, dict[str, Tensor]], noise: list[Tensor]) -> None:
        engine = self.engine
        with torch.no_grad():
            for tensor, before in zip(engine.tensors, weights, strict=True):
                tensor.copy_(before)
            for parameter, slot in engine.optimizer.state.items():
                for key, tensor in slot.items():
                    tensor.copy_(slots[parameter][key]) if parameter in slots else tensor.zero_()
        for generator, before in zip(engine.noise, noise, strict=True):
            generator.set_state(before)


def set_rate(optimizer: torch.optim.Optimizer, rate: float | Tensor) -> None:
    """Set the learning rate of an optimizer's next steps; a tensor can be changed in a captured graph."""
    for group in optimizer.param_groups:
        group["lr"] = rate
