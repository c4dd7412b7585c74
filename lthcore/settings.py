"""Settings of experiments, a class for each kind of study: one frozen object completely defines an experiment."""

from typing import Any, ClassVar, Literal, Self, get_args

from pydantic import Field, field_validator, model_validator

from lthcore.arms import Arm, arm_of, criterion_of
from lthcore.recipe import LARGEST_PLAN, Recipe, listed
from lthcore.registry import Kind

SparsitySchedule = Literal["linear", "cubic", "cosine", "constant"]

MOST_ROUNDS = 253  # a lineage has one byte for the round in which a weight is pruned, up to one after the last


class Settings(Recipe):
    """Settings of a search for tickets. Defaults: the paper's LeNet on MNIST (arXiv 1803.03635, Figure 2)."""

    # source of masks -> the other study that has arms with such masks
    ARMS_OF_OTHERS: ClassVar = {"elsewhere": "mask_transfer", "training": "dynamic_pruning"}

    arms: tuple[str, ...] = Field(("ticket", "reinit", "random"), description="what is trained at each round")
    reinit_draws: int = Field(3, gt=0, description="reinitialisations of each trial's mask")
    random_draws: int = Field(2, gt=0, description="random masks in each trial")
    rounds: int = Field(20, ge=0, le=MOST_ROUNDS, description="rounds of pruning")
    criterion: str = Field("magnitude", description="which weights are worth keeping")
    scope: Literal["layer", "global"] = Field("layer", description="weights compete within their layer or all together")
    pruned_to: Literal["zero", "initial"] = Field(
        "zero", description="initial leaves pruned weights at the values they started from, untrained"
    )
    granularity: Literal["weights", "units"] = Field("weights", description="units prunes whole neurons and filters")
    keep_at_least: float = Field(0.0, ge=0, lt=1, description="share of each layer's weights that no round goes below")
    prune_fc: float = Field(0.2, ge=0, lt=1, description="share of the remaining dense weights pruned in a round")
    prune_conv: float = Field(0.1, ge=0, lt=1, description="share of the remaining convolution weights")
    prune_output: float = Field(0.1, ge=0, lt=1, description="share of the remaining weights of the output layer")
    prune_layers: tuple[tuple[str, float], ...] = Field(
        (), description="shares of single layers in place of those of their kind, as {fc1: 0.3}"
    )

    restart: Literal["rewind", "best"] = Field(
        "rewind", description="best lets tickets go on from the weights that validated best"
    )
    keep_optimizer: bool = Field(False, description="with restart best, tickets go on with the optimizer's state too")

    @field_validator("prune_layers", mode="before")
    @classmethod
    def _in_order(cls, value: Any) -> Any:
        """Return the pairs (layer, share) sorted by layer, so that the run key does not depend on their order."""
        pairs = list(value.items()) if isinstance(value, dict) else value
        if not isinstance(pairs, list | tuple) or not all(isinstance(p, list | tuple) and len(p) == 2 for p in pairs):
            return value
        if any(isinstance(rate, bool) or not isinstance(layer, str) for layer, rate in pairs):
            raise ValueError("must be a mapping from layers to numbers, as {fc1: 0.3}")
        return sorted((tuple(pair) for pair in pairs), key=lambda pair: pair[0])

    @model_validator(mode="after")
    def _search(self) -> Self:
        arms = [arm_of(arm) for arm in self.arms]
        self._check_arms(arms)
        self._check_by_criterion([arm.masks for arm in arms if criterion_of(arm.masks)])
        self._check_frozen()
        self._check_restart()
        self._check_layers()
        return self

    def _check_arms(self, arms: list[Arm]) -> None:
        for arm in arms:
            if study := self.ARMS_OF_OTHERS.get(arm.masks):
                raise self._wrong("arms", f"the arm {arm.name} is for the study {study} only")
        if "ticket" not in self.arms:
            raise self._wrong("arms", "must contain ticket, the arm that the others are compared with")
        if len(set(self.arms)) < len(self.arms):
            raise self._wrong("arms", "each arm once")
        if "continued_reset" in self.arms and "continued" not in self.arms:
            raise self._wrong("arms", "continued_reset needs the arm continued, whose mask it uses")
        if "fine_tuned" in self.arms and self.schedule == "cosine":
            raise self._wrong("arms", "no fine_tuned with schedule cosine, which ends at a learning rate of 0")

    def _check_by_criterion(self, by: list[str]) -> None:
        """Check the sources of masks `by_<criterion>`."""
        if "by_synflow-inverted" in by:
            raise self._wrong("arms", "SynFlow has no inverse: it takes the scores anew each time")
        if self.keep_at_least > 0 and any(criterion_of(source) == "synflow" for source in by):
            raise self._wrong("keep_at_least", "must be 0 with by_synflow, which never empties a layer")
        if by and self.granularity == "units":
            raise self._wrong("arms", "by_<criterion> is for granularity weights")

    def _check_frozen(self) -> None:
        """Check settings that cannot be combined with pruned weights frozen at their initial values."""
        if self.pruned_to == "zero":
            return
        if self.weight_decay > 0:
            raise self._wrong("pruned_to", "initial needs weight_decay = 0, which moves weights")
        if self.granularity == "units":
            raise self._wrong("pruned_to", "zero with granularity units")
        if {"continued", "fine_tuned"} & set(self.arms):
            raise self._wrong("pruned_to", "zero with the arms continued and fine_tuned")
        if self.restart == "best":
            raise self._wrong("pruned_to", "zero with restart best")

    def _check_restart(self) -> None:
        if self.restart == "best" and self.validation == 0:
            raise self._wrong("restart", "best needs a validation set")
        if self.restart == "best" and self.rewind_to > 0:
            raise self._wrong("restart", "best needs rewind_to = 0")
        if self.restart != "best" and self.keep_optimizer:
            raise self._wrong("keep_optimizer", "allowed with restart best")

    def _check_layers(self) -> None:
        """Check the shares of weights that are pruned and kept in single layers."""
        if self.granularity == "units" and self.prune_layers:
            raise self._wrong("prune_layers", "for granularity weights")
        if any(not 0 <= rate < 1 for _, rate in self.prune_layers):
            raise self._wrong("prune_layers", "shares from 0 to below 1")
        if len(dict(self.prune_layers)) < len(self.prune_layers):
            raise self._wrong("prune_layers", "each layer once")
        if self.granularity == "units" and self.keep_at_least > 0:
            allowed = "allowed with granularity weights only, since one unit always stays"
            raise self._wrong("keep_at_least", allowed)

    @property
    def trainings(self) -> int:
        """Number of planned training runs, computed without listing them.

        Each trial has one for the dense network, and in each round one for each draw of each arm.
        """
        return self.trials * (1 + self.rounds * sum(map(self.draws, self.arms)))

    @property
    def masks_weights(self) -> bool:
        """Whether pruned weights are zero, and not frozen at their initial values."""
        return self.pruned_to == "zero"

    def draws(self, arm: str) -> int:
        """Return the number of draws of `arm` in each trial and round."""
        drawn = arm_of(arm).drawn
        return getattr(self, drawn) if drawn else 1


class TransferSettings(Settings):
    """Settings of the transfer of masks from one data set to another (lthcore/lottery/transfer.py)."""

    ARMS_OF_OTHERS: ClassVar = {"training": "dynamic_pruning"}

    arms: tuple[str, ...] = Field(
        ("ticket", "transferred", "transferred-shuffled"), description="what is trained at each round"
    )
    masks_from: str = Field("mnist", description="data set, of images of the same shape, on which masks are found")

    @model_validator(mode="after")
    def _transfer(self) -> Self:
        if self.masks_from == self.dataset:
            raise self._wrong("masks_from", f"another data set than {self.dataset}")
        if self.rewind_to > 0:
            raise self._wrong("rewind_to", "must be 0, since a mask is transferred to the initial weights")
        return self

    @property
    def source(self) -> Settings:
        """Settings of the search that finds the masks: the same recipe on the data set `masks_from`."""
        own = {name: value for name, value in self.given().items() if name in Settings.model_fields}
        return Settings(**own | {"dataset": self.masks_from, "arms": ("ticket",)})


class DynamicSettings(Recipe):
    """Settings of dynamic pruning, which gives a sparse network in one training run (lthcore/lottery/dynamic.py)."""

    sparsity: float = Field(0.8, ge=0, lt=1, description="share of the weights that is pruned in the end")
    sparsity_schedule: SparsitySchedule = Field(
        "linear", description=f"how the sparsity rises: {listed(SparsitySchedule)}, all at the first update"
    )
    prune_from: int = Field(0, ge=0, description="epoch at whose start the first update of the mask is")
    prune_until: int = Field(0, ge=0, description="epoch at whose start the last update is, 0 for the last epoch")
    prune_every: int = Field(0, ge=0, description="iterations between updates of the mask, 0 for an epoch")
    reach_sparsity: bool = Field(True, description="false stops an update short, as the schedule s e / E does")
    scope: Literal["layer", "global", "erk"] = Field(
        "global", description="weights compete within their layer, all together, or within layers of ERK densities"
    )
    prunable: tuple[Kind, ...] = Field(
        ("conv", "shortcut", "fc", "output"), description="kinds of layers that are pruned, and whose sparsity this is"
    )
    regrowth: Literal["none", "magnitude", "gradient"] = Field(
        "none", description="magnitude takes back pruned weights that outrank others, gradient is RigL"
    )
    rewired: float = Field(0.3, gt=0, lt=1, description="share of the weights that RigL exchanges at first")
    masking: Literal["weights", "gradients"] = Field(
        "weights", description="gradients leaves the weights under the mask as they are, so nothing is pruned"
    )

    @field_validator("prunable")
    @classmethod
    def _in_order(cls, kinds: tuple[Kind, ...]) -> tuple[Kind, ...]:
        """Return the kinds in one order and each once, so that the run key does not depend on how they are written."""
        return tuple(kind for kind in get_args(Kind) if kind in kinds)

    @model_validator(mode="after")
    def _updates(self) -> Self:
        last = (self.iterations - 1) // self.steps_per_epoch
        if self.prune_until > last:
            raise self._wrong("prune_until", f"allowed up to the last epoch, {last} from 0")
        if self.prune_from > (until := self.prune_until or last):
            raise self._wrong("prune_from", f"allowed up to epoch {until}, of the last update")
        if self.prune_every > 0 and self.iterations // self.prune_every > LARGEST_PLAN:
            raise self._wrong("prune_every", f"allowed are up to {LARGEST_PLAN:,} updates")
        if not self.prunable:
            raise self._wrong("prunable", "must name a kind of layer")
        if self.regrowth == "gradient" and self.sparsity_schedule != "constant":
            allowed = "must be constant with regrowth gradient, which is sparse from the start"
            raise self._wrong("sparsity_schedule", allowed)
        if self.regrowth != "none" and self.masking == "gradients":
            raise self._wrong("regrowth", "for masking weights only, since under gradients every weight lives on")
        self._check_unused()
        return self

    def _check_unused(self) -> None:
        """Refuse settings without effect, which would give the same training another run key."""
        if self.regrowth != "gradient" and self.rewired != type(self).model_fields["rewired"].default:
            raise self._wrong("rewired", "allowed with regrowth gradient only")
        if self.rewind_to > 0:
            raise self._wrong("rewind_to", "must be 0, since nothing is rewound")
        if self.sparsity_schedule == "constant" and not self.reach_sparsity:
            raise self._wrong("reach_sparsity", "must be true with a constant schedule, which has no steps")

    @property
    def masks_weights(self) -> bool:
        """Whether pruned weights are zero."""
        return self.masking == "weights"

    @property
    def counts_nonzero(self) -> bool:
        """Whether remaining weights are counted as nonzero weights, because a mask on gradients alone prunes none."""
        return self.masking == "gradients"
