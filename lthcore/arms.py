"""Arms: what is trained at each round of a search, each as a record of where its masks and its weights come from.

All arms share the data split, and at equal (trial, round) the batches. Round 0 is the dense network; it is the
ticket's, and all other arms start from it.
"""

import re
from dataclasses import dataclass, replace

from lthcore.errors import LabError, choose
from lthcore.registry import CRITERIA, UNCOLOURED


@dataclass(frozen=True)
class Arm:
    """One arm.

    `masks` is the source of its masks: an arm that is pruned by its own outcomes, `oneshot` for pruning the trained
    dense network once, `by_<criterion>` for doing so by another criterion, with `-inverted` its worst weights kept,
    `elsewhere`, or the `training` itself, in which they change. `weights` is what it starts from, a name of WEIGHTS in
    lthcore/lottery/start.py. `drawn` names the setting that says how often it is drawn in each trial, empty for once,
    and `purpose` what its random numbers are seeded for, empty for its name.
    """

    name: str
    masks: str
    weights: str
    label: str
    colour: str
    style: str = "-"
    shuffled: bool = False  # its masks, within their layers
    drawn: str = ""
    purpose: str = ""
    sigmas: float = 0.0  # of noise on its weights, in standard deviations of each layer
    fine_tuned: bool = False  # trained at the learning rate that the dense network ended with

    @property
    def is_pruned_itself(self) -> bool:
        """Whether its masks follow from its own outcomes, round by round."""
        return self.masks == self.name and not prunes_dense(self.masks)

    @property
    def grows_from(self) -> str:
        """The arm whose round before must be there for this one's round."""
        return self.masks if self.masks in PRUNED_THEMSELVES else "ticket"


def criterion_of(source: str) -> str:
    """The criterion of a source `by_<criterion>`; empty for other sources."""
    return source.removeprefix("by_").partition("-")[0] if source.startswith("by_") else ""


def prunes_dense(source: str) -> bool:
    """Whether all masks of a source follow from the dense network of a trial."""
    return source == "oneshot" or bool(criterion_of(source))


ARMS = {
    arm.name: arm
    for arm in (
        # the mask found by iterative pruning, weights rewound (to iteration 0, or `rewind_to`; with `restart: best` it
        # goes on from those that validated best)
        Arm("ticket", "ticket", "rewound", "winning ticket", "#1f5fa8"),
        # the ticket's mask, fresh weights
        Arm(
            "reinit", "ticket", "fresh", "reinitialised ticket", "#d1642a", "--",
            drawn="reinit_draws", purpose="reinit",
        ),
        # as many weights in each layer at random, the initial weights
        Arm(
            "random", "ticket", "initial", "random sparse network", "#3d8c5c", ":",
            shuffled=True, drawn="random_draws", purpose="random mask",
        ),
        # as many weights, chosen by pruning the trained dense network once; weights rewound, or fresh
        Arm("oneshot", "oneshot", "rewound", "one-shot ticket", "#7a4fa3"),
        Arm(
            "oneshot_reinit", "oneshot", "fresh", "reinitialised one-shot", "#b8860b", "--",
            drawn="reinit_draws", purpose="reinit",
        ),
        # iterative pruning that goes on from the trained weights, by the schedule from `rewind_to` on: learning-rate
        # rewinding (arXiv 2003.02389); its mask, with weights rewound (the paper's Figure 9, second strategy)
        Arm("continued", "continued", "trained", "continued training", "#767676", "-."),
        Arm("continued_reset", "continued", "rewound", "mask of continued training, rewound", "#8c6d31", "--"),
        # as continued, but all at the learning rate that the dense training ended with: fine-tuning
        Arm("fine_tuned", "fine_tuned", "trained", "fine-tuned", "#b0486a", "-.", fine_tuned=True),
        # a mask found on another data set (lthcore/lottery/transfer.py), as it is and shuffled within its layers
        Arm("transferred", "elsewhere", "initial", "mask from the other data set", "#d1642a"),
        Arm(
            "transferred-shuffled", "elsewhere", "initial", "that mask, shuffled in layers", "#999999", ":",
            shuffled=True,
        ),
        # the ticket's mask, weights drawn from its own surviving initial weights, layer by layer
        Arm(
            "resampled", "ticket", "resampled", "weights drawn from the ticket's own", "#2a9d8f", "--",
            drawn="reinit_draws", purpose="resampled",
        ),
        # the ticket with Gaussian noise added
        Arm("noise_0.5", "ticket", "noisy", "ticket + 0.5 sigma of noise", "#5b8fc9", sigmas=0.5),
        Arm("noise_1", "ticket", "noisy", "ticket + 1 sigma of noise", "#8a6fc0", sigmas=1.0),
        Arm("noise_2", "ticket", "noisy", "ticket + 2 sigma of noise", "#c07fae", sigmas=2.0),
        Arm("noise_3", "ticket", "noisy", "ticket + 3 sigma of noise", "#c0504d", sigmas=3.0),
        # no arm of a search: a network that is pruned while it trains (lthcore/lottery/dynamic.py)
        Arm("dynamic", "training", "initial", "pruned while it trains", "#1f5fa8"),
    )
}  # fmt: skip
OURS = frozenset(ARMS)  # others are somebody's own
PRUNED_THEMSELVES = tuple(name for name, arm in ARMS.items() if arm.is_pruned_itself)

# What `by_<criterion>` may be followed by: a criterion without its weights, its places or its order.
CHANGES = {
    "": ({}, "", ""),
    "shuffled": ({"shuffled": True}, ", shuffled in layers", ":"),
    "fresh": ({"weights": "fresh"}, ", other weights", "--"),
    "inverted": ({}, ", worst weights kept", "-."),
    "signed": ({"weights": "signed_initial"}, ", signs alone", "--"),
}
BY_CRITERION = re.compile(rf"by_([A-Za-z_]\w*?)(?:-({'|'.join(filter(None, CHANGES))}))?")


def arm_of(name: str) -> Arm:
    """The arm of a name. Raises LabError where there is none."""
    if name in ARMS:
        return ARMS[name]
    found = BY_CRITERION.fullmatch(name)
    if not found:
        try:
            choose("arms", name, ARMS)
        except LabError as error:
            raise LabError(f"{error}, by_<criterion>") from None
    criterion, change = found[1], found[2] or ""
    changed, words, style = CHANGES[change]
    label, colour, own_style = _drawn_as(criterion)
    masks = name if change == "inverted" else f"by_{criterion}"
    return replace(Arm(name, masks, "rewound", label + words, colour, style or own_style), **changed)


def _drawn_as(criterion: str) -> tuple[str, str, str]:
    """Label, colour and line style of a criterion."""
    known = CRITERIA.get(criterion)
    return (known.label, known.colour, known.style) if known else (criterion.replace("_", " "), UNCOLOURED, "-")
