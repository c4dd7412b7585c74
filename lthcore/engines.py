"""Engines: what takes the steps of a training. All have the interface of `Dense`, and agree to rounding.

An engine holds K replicates of one network that train in step. `Dense` holds one, as it stands in `models`; `Chain` one
chain of dense layers on a CPU, its gradients by hand; `Stack` any number of chains, as batched products over a leading
replicate dimension; `sparse.SparseChain` one chain, by the weights it has left; `conv.ConvolutionalNetwork` one of
convolutions on a CPU, its gradients by hand. On a GPU a step is captured as a CUDA graph and replayed, so that it costs
no launches.
"""

import warnings
import weakref

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lthcore import masks
from lthcore.data.augment import augment
from lthcore.data.datasets import Data, Split
from lthcore.models import Dropout, Weights
from lthcore.onednn import times_transposed
from lthcore.seeds import seed_for
from lthcore.settings import Recipe
from lthcore.state import Training

# images evaluated at once: on a core as many as its cache holds the activations of
EVALUATION_BATCH, CONVOLUTIONAL_BATCH = {"cpu": 2500, "cuda": 15_000}, {"cpu": 100, "cuda": 15_000}
IN_PLACE = ("cuda",)  # devices on which a mask is changed in place; on a CPU a new engine may be a sparse one
COMPILED = ("cuda",)  # devices on which convolutions are compiled; on a CPU it gains nothing
CHAIN = (nn.Flatten, nn.Linear, nn.ReLU, Dropout)
Evaluation = list[tuple[float, float]]  # mean cross-entropy (nats) and accuracy, of each split


class Dense:
    """One network under a mask with its optimizer, as dense tensors on any device."""

    def __init__(self, settings: Recipe, model: nn.Module, device: torch.device, states: list[Training]) -> None:
        """Take `model` and the one replicate it is to be."""
        (state,) = states
        self.settings = settings
        self.model = model.to(device, memory_format=torch.channels_last)  # of convolutions: faster, on CPUs too
        self.model.load_state_dict(masks.apply(state.mask, state.weights) if settings.masks_weights else state.weights)
        self.forward = torch.compile(self.model) if _pays_to_compile(settings, model, device) else self.model
        self.parameters, self.tensors = dict(self.model.named_parameters()), list(self.model.state_dict().values())
        pruned = {name: m for name, m in state.mask.items() if not m.all()}
        self.kept = {name: _like(self.parameters[name], m) for name, m in pruned.items()}
        self.optimizer = make_optimizer(settings, self.parameters, state.optimizer)
        self.noise = [noise_of(state, device)]
        for module in self.model.modules():
            if isinstance(module, Dropout):
                module.generator = self.noise[0]
        self.replay: Replay | None = None

    def steps(self, data: Data, batches: Tensor, rates: list[float]) -> None:
        """Train on batches (K, steps, batch) of image indices at these learning rates.

        Pruned weights are zero after every step: gradients are masked before the optimizer and weights after it, so
        that neither momentum nor weight decay can move them, and their optimizer state stays zero too.
        """
        if self.replay is None:
            self.replay = Replay(self, data, batches[:, 0])
        for i, rate in enumerate(rates):
            self.replay(batches[:, i], rate)

    def loss(self, data: Data, batch: Tensor) -> Tensor:
        """The training loss on a batch (K, batch) of image indices, summed over replicates."""
        s, x, y = self.settings, data.train.images[batch[0]], data.train.labels[batch[0]]
        x = augment(x, s, self.noise[0]) if s.augment else x
        with torch.autocast(x.device.type, torch.bfloat16, enabled=s.precision == "bfloat16"):
            return F.cross_entropy(self.forward(x), y, label_smoothing=s.label_smoothing)

    def gradients(self, data: Data, batch: Tensor) -> None:
        """Set the gradient of the mean loss on a batch (K, batch) of image indices in every parameter."""
        self.optimizer.zero_grad()
        self.loss(data, batch).backward()

    def clip(self, norm: float) -> None:
        """Scale the gradient of each replicate down to a norm."""
        nn.utils.clip_grad_norm_(self.parameters.values(), norm)

    def evaluate(self, *splits: Split) -> list[Evaluation]:
        """Each replicate's loss and accuracy on each split, waiting for the device once."""
        return [evaluate(self.model, *splits, precision=self.settings.precision)]

    def load(self, weights: list[Weights]) -> None:
        """Put other weights into each replicate, to evaluate them."""
        self.model.load_state_dict(weights[0])

    def take(self, states: list[Training]) -> bool:
        """Go on from states that were changed from outside; False where that takes another engine.

        In place, as a captured graph needs it: it saves capturing one for each change of a mask.
        """
        (state,) = states
        pruned = {name: m for name, m in state.mask.items() if not m.all()}
        if self.parameters[next(iter(state.mask))].device.type not in IN_PLACE or pruned.keys() != self.kept.keys():
            return False
        self.model.load_state_dict(state.weights)
        for name, m in pruned.items():
            self.kept[name].copy_(m)
        for name, tensor in optimizer_tensors(self.optimizer, self.parameters).items():
            tensor.copy_(state.optimizer[name])
        return True

    def export(self, states: list[Training]) -> None:
        """Put each replicate as it is into its state: views of what training goes on to change."""
        (state,) = states
        state.weights = {name: tensor.detach() for name, tensor in self.model.state_dict().items()}
        state.optimizer, state.noise = optimizer_tensors(self.optimizer, self.parameters), self.noise[0].get_state()


class Chain(Dense):
    """A chain of dense layers on a CPU, its gradients by hand: autograd's bookkeeping is a third of so small a step."""

    def __init__(self, settings: Recipe, model: nn.Module, device: torch.device, states: list[Training]) -> None:
        """Take `model` and the one replicate it is to be."""
        super().__init__(settings, model, device, states)
        self.layers = [(layer.weight, layer.bias) for layer in model if isinstance(layer, nn.Linear)]
        classes, smoothing = len(self.layers[-1][1]), settings.label_smoothing
        self.targets = torch.eye(classes) * (1 - smoothing) + smoothing / classes

    def gradients(self, data: Data, batch: Tensor) -> None:
        """Set the gradient of the mean loss on a batch (1, batch) of image indices in every parameter."""
        with torch.no_grad():
            x, inputs = data.train.images[batch[0]].flatten(1), []
            for i, (weight, bias) in enumerate(self.layers, start=1):
                inputs.append(x)
                x = times_transposed(x, weight, bias, relu=i < len(self.layers))
            back = (x.softmax(1) - self.targets[data.train.labels[batch[0]]]) / len(x)  # of the cross-entropy
            for (weight, bias), x in zip(reversed(self.layers), reversed(inputs), strict=True):
                weight.grad, bias.grad = times_transposed(back.t(), x.t()), back.sum(0)
                if weight is not self.layers[0][0]:
                    back = times_transposed(back, weight.t()).mul_(x > 0)


class Stack(Dense):
    """K replicates of a chain of dense layers in one step: every parameter (K, ...), every product batched over K."""

    def __init__(self, settings: Recipe, model: nn.Module, device: torch.device, states: list[Training]) -> None:
        """Take `model` for its layers, and the replicates."""
        self.settings, self.layers = settings, list(model.named_children())
        masked = [masks.apply(s.mask, s.weights) if settings.masks_weights else s.weights for s in states]
        self.parameters = {name: _stacked(masked, name).to(device).requires_grad_() for name in masked[0]}
        self.tensors = [parameter.detach() for parameter in self.parameters.values()]
        kept = {name: _stacked([state.mask for state in states], name) for name in states[0].mask}
        self.kept = {name: m.to(device, torch.float32) for name, m in kept.items() if not m.all()}
        saved = {name: _stacked([state.optimizer for state in states], name) for name in states[0].optimizer}
        saved = {name: t[0] if name.endswith("/step") else t for name, t in saved.items()}  # one clock for all
        self.optimizer = make_optimizer(settings, self.parameters, saved)
        self.noise = [noise_of(state, device) for state in states]
        self.replay = None

    def forward(self, x: Tensor, training: bool) -> Tensor:
        """Logits (K, batch, classes) of images (K, batch, ...)."""
        for name, layer in self.layers:
            if isinstance(layer, nn.Flatten):
                x = x.flatten(2)
            elif isinstance(layer, nn.Linear):
                weight, bias = self.parameters[f"{name}.weight"], self.parameters[f"{name}.bias"]
                x = torch.baddbmm(bias.unsqueeze(1), x, weight.transpose(1, 2))
            elif isinstance(layer, nn.ReLU):
                x = x.relu()
            elif training and layer.rate:  # dropout: each replicate's noise is what it would be alone
                keep = 1 - layer.rate
                x = x * torch.stack([torch.empty_like(x[0]).bernoulli_(keep, generator=g) for g in self.noise]) / keep
        return x

    def loss(self, data: Data, batch: Tensor) -> Tensor:
        """As in `Dense`; the sum gives each replicate the gradient of its own mean loss."""
        s, x, y = self.settings, data.train.images[batch], data.train.labels[batch]
        if s.augment:
            each = [augment(i, s, noise) for i, noise in zip(x, self.noise, strict=True)]
            x = torch.stack(each)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=s.precision == "bfloat16"):
            logits = self.forward(x, training=True)
            each = F.cross_entropy(
                logits.flatten(0, 1), y.flatten(), label_smoothing=s.label_smoothing, reduction="sum"
            )
        return each / batch.shape[1]

    def clip(self, norm: float) -> None:
        """As in `Dense`, each replicate by its own norm."""
        squares = [p.grad.flatten(1).square().sum(1) for p in self.parameters.values()]
        scale = (norm / (torch.stack(squares).sum(0).sqrt() + 1e-6)).clamp(max=1.0)
        for parameter in self.parameters.values():
            parameter.grad.mul_(scale.view(-1, *[1] * (parameter.ndim - 1)))

    @torch.no_grad()
    def evaluate(self, *splits: Split) -> list[Evaluation]:
        """As in `Dense`, all replicates on the same images at once."""
        k, device = len(self.noise), splits[0].labels.device
        totals = torch.zeros(len(splits), 2, k, dtype=torch.float64, device=device)
        size = EVALUATION_BATCH[device.type]
        for total, (images, labels) in zip(totals, splits, strict=True):
            for x, y in zip(images.split(size), labels.split(size), strict=True):
                logits = self.forward(x.expand(k, *x.shape), training=False)
                losses = F.cross_entropy(logits.transpose(1, 2), y.expand(k, -1), reduction="none")
                total += torch.stack([losses.sum(1), (logits.argmax(2) == y).sum(1)])
            total /= len(labels)
        return [[tuple(pair) for pair in replicate] for replicate in totals.permute(2, 0, 1).tolist()]

    def load(self, weights: list[Weights]) -> None:
        """Put other weights into each replicate, to evaluate them."""
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(_stacked(weights, name))

    def take(self, states: list[Training]) -> bool:
        """Not in place: a graph of these small steps is captured in no time."""
        return False

    def export(self, states: list[Training]) -> None:
        """Put each replicate as it is into its state: views of what training goes on to change."""
        optimizer = optimizer_tensors(self.optimizer, self.parameters)
        for k, state in enumerate(states):
            state.weights = {name: parameter.detach()[k] for name, parameter in self.parameters.items()}
            state.optimizer = {name: t if name.endswith("/step") else t[k] for name, t in optimizer.items()}
            state.noise = self.noise[k].get_state()


class Replay:
    """One step of an engine, again and again: captured as a CUDA graph on a GPU, called elsewhere."""

    def __init__(self, engine: Dense, data: Data, batch: Tensor) -> None:
        """Set up static inputs like `batch` (K, batch); on a GPU, warm up and capture."""
        # the engine holds this: a cycle would leave both, and all tensors of a training, to the garbage collector,
        # which counts objects and not their size, and so comes late
        self.engine, self.data = weakref.proxy(engine), data
        self.batch, self.graph = batch.clone(), None
        if batch.device.type == "cuda":
            self.rate = torch.tensor(0.0, device=batch.device)
            _set_rate(engine.optimizer, self.rate)
            try:
                self._capture()
            except RuntimeError as error:
                warnings.warn(f"training without a CUDA graph, which is slower: {error}", stacklevel=2)
                self.graph, engine.forward = None, getattr(engine, "model", engine.forward)  # nor compiled

    def __call__(self, batch: Tensor, rate: float) -> None:
        """Take the step on a batch (K, batch) at a learning rate."""
        if self.batch.device.type == "cuda":
            self.rate.fill_(rate)
        else:
            _set_rate(self.engine.optimizer, rate)
        if self.graph:
            self.batch.copy_(batch)
            self.graph.replay()
        else:
            self._step(batch)

    def _step(self, batch: Tensor) -> None:
        engine = self.engine
        engine.gradients(self.data, batch)
        for name, mask in engine.kept.items():
            engine.parameters[name].grad.mul_(mask)
        if engine.settings.clip_norm:
            engine.clip(engine.settings.clip_norm)
        engine.optimizer.step()
        with torch.no_grad():
            for name, mask in engine.kept.items() if engine.settings.masks_weights else ():
                engine.parameters[name].mul_(mask)

    def _capture(self) -> None:
        """Capture a step; what the warm-up changed is put back."""
        engine = self.engine
        weights = [tensor.clone() for tensor in engine.tensors]
        slots = {p: {k: t.clone() for k, t in slot.items()} for p, slot in engine.optimizer.state.items()}
        noise = [generator.get_state() for generator in engine.noise]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self._step(self.batch)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        for generator in engine.noise:
            graph.register_generator_state(generator)
        with torch.cuda.graph(graph):
            self._step(self.batch)
        with torch.no_grad():
            for tensor, before in zip(engine.tensors, weights, strict=True):
                tensor.copy_(before)
            for parameter, slot in engine.optimizer.state.items():
                for key, tensor in slot.items():
                    tensor.copy_(slots[parameter][key]) if parameter in slots else tensor.zero_()
        for generator, before in zip(engine.noise, noise, strict=True):
            generator.set_state(before)
        self.graph = graph


@torch.no_grad()
def evaluate(model: nn.Module, *splits: Split, precision: str = "float32") -> Evaluation:
    """Mean cross-entropy (nats) and accuracy of `model` on each split, in evaluation mode, never augmented.

    `precision` is that of the training: bfloat16 takes a fraction of the time where a processor has units for it.
    """
    model.eval()
    device = splits[0].labels.device
    totals = torch.zeros(len(splits), 2, dtype=torch.float64, device=device)
    convolutional = any(isinstance(layer, nn.Conv2d) for layer in model.modules())
    size = (CONVOLUTIONAL_BATCH if convolutional else EVALUATION_BATCH)[device.type]
    for total, (images, labels) in zip(totals, splits, strict=True):
        for x, y in zip(images.split(size), labels.split(size), strict=True):
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
                logits = model(x).float()
            total += torch.stack([F.cross_entropy(logits, y, reduction="sum"), (logits.argmax(1) == y).sum()])
        total /= len(labels)
    model.train()
    return [tuple(total) for total in totals.tolist()]


def is_chain(model: nn.Module) -> bool:
    """Whether a network is a chain of dense layers with biases, which `Stack` can hold."""
    biased = all(layer.bias is not None for layer in model.modules() if isinstance(layer, nn.Linear))
    return biased and isinstance(model, nn.Sequential) and all(isinstance(layer, CHAIN) for layer in model)


def is_plain_chain(settings: Recipe, model: nn.Module, device: torch.device) -> bool:
    """Whether a training is of dense layers and nothing else, on a CPU: no dropout, augmentation or autocast."""
    kinds = [next((i for i, kind in enumerate(CHAIN) if isinstance(layer, kind)), None) for layer in model.children()]
    hidden = (len(kinds) - 2) // 2
    layers = is_chain(model) and kinds == [0, *[1, 2] * hidden, 1]  # flatten, (linear, relu) ..., linear
    return layers and device.type == "cpu" and settings.precision == "float32" and not settings.augment


def noise_of(state: Training, device: torch.device) -> torch.Generator:
    """The generator of a replicate's dropout and augmentation, where it was left or at its beginning."""
    generator = torch.Generator(device).manual_seed(seed_for(state.seed, "noise"))
    if state.noise is not None:
        generator.set_state(state.noise.cpu())
    return generator


def make_optimizer(settings: Recipe, parameters: Weights, saved: dict[str, Tensor]) -> torch.optim.Optimizer:
    """The optimizer of the settings, going on from `saved` tensors (`<parameter>/<slot>`) unless that is empty."""
    norms = {name for name in parameters if _is_norm(name, parameters)} if not settings.decay_norms else set()
    order = sorted(parameters, key=lambda name: name in norms)  # as groups, and in each as they stand
    groups = [
        {"params": [parameters[name] for name in order if (name in norms) == exempt], "weight_decay": decay}
        for exempt, decay in ((False, settings.weight_decay), (True, 0.0))
    ]
    groups = [group for group in groups if group["params"]]
    common = {"lr": settings.learning_rate, "fused": True}
    if settings.optimizer == "sgd":
        optimizer = torch.optim.SGD(groups, **common, momentum=settings.momentum, nesterov=settings.nesterov)
    else:
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[settings.optimizer]
        on_gpu = next(iter(parameters.values())).device.type == "cuda"
        optimizer = kind(groups, **common, capturable=on_gpu)
    if saved:
        slots = {name: [key.split("/")[1] for key in saved if key.startswith(f"{name}/")] for name in parameters}
        state = {
            i: {slot: _like(parameters[n], saved[f"{n}/{slot}"]) for slot in slots[n]} for i, n in enumerate(order)
        }
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return optimizer


def optimizer_tensors(optimizer: torch.optim.Optimizer, parameters: Weights) -> dict[str, Tensor]:
    """The tensors of an optimizer as `<parameter>/<slot>`."""
    return {
        f"{name}/{slot}": tensor
        for name, parameter in parameters.items()
        for slot, tensor in optimizer.state.get(parameter, {}).items()
        if isinstance(tensor, Tensor)
    }


def _is_norm(name: str, parameters: Weights) -> bool:
    """Whether a parameter is a norm's scale or shift: the scale is a vector, and so is no other weight."""
    return parameters[f"{name.rpartition('.')[0]}.weight"].ndim == 1


def _set_rate(optimizer: torch.optim.Optimizer, rate: float | Tensor) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def _pays_to_compile(settings: Recipe, model: nn.Module, device: torch.device) -> bool:
    """Whether `torch.compile` pays: for convolutions on a GPU (it fuses norms with what surrounds them)."""
    convolutions = any(isinstance(layer, nn.Conv2d) for layer in model.modules())
    return settings.engine == "auto" and convolutions and device.type in COMPILED


def _like(parameter: Tensor, tensor: Tensor) -> Tensor:
    """A copy of `tensor` on a parameter's device, and in its dtype and memory layout where it has its shape."""
    if tensor.shape != parameter.shape:
        return tensor.clone()  # an optimizer's step count
    return torch.empty_like(parameter, requires_grad=False).copy_(tensor)


def _stacked(replicates: list[Weights], name: str) -> Tensor:
    return torch.stack([tensors[name] for tensors in replicates])
