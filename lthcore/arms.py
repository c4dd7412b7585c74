"""Arms of a search: the networks that are trained in each round, defined by the sources of their masks and weights.

All arms share the data split, and at equal (trial, round) the batches. Round 0 is the dense network. It belongs to the
arm `ticket`, and all other arms start from it.
"""

import re
from dataclasses import dataclass, replace

from lthcore.errors import choose_registered
from lthcore.registry import CRITERIA, UNCOLOURED


@dataclass(frozen=True)
class Arm:
    """One arm of a search.

    `masks` is the source of its masks: an arm that is pruned by its own outcomes; `oneshot` for pruning the trained
    dense network once; `by_<criterion>` for pruning it once by another criterion (`by_<criterion>-inverted` keeps the
    worst weights); `elsewhere` for masks found on another data set; or `training` for masks that change during
    training. `weights` names the function in WEIGHTS (lthcore/lottery/start.py) that returns its starting weights.
    `drawn` names the setting for the number of draws in each trial (empty: one draw). Its random numbers are
    seeded for `purpose` (empty: for its name). An arm that `resumes` begins at iteration `rewind_to` of the training.
    """

    name: str
    masks: str
    weights: str
    label: str
    colour: str
    style: str = "-"
    marker: str = "o"  # in figures, for readers who cannot tell its colour from another arm's
    shuffled: bool = False  # whether its masks are shuffled within each layer
    drawn: str = ""
    purpose: str = ""
    sigmas: float = 0.0  # noise on its weights, in standard deviations of each layer
    fine_tuned: bool = False  # whether it trains at the final learning rate of the dense network
    resumes: bool = False  # whether its weights are those of iteration `rewind_to` or later; others begin at 0

    @property
    def is_pruned_itself(self) -> bool:
        """Whether its masks are found by pruning its own outcomes, round by round."""
        return self.masks == self.name and not prunes_dense(self.masks)

    @property
    def follows(self) -> str:
        """Name of the arm whose previous round must be complete before this arm's round can start."""
        return self.masks if self.masks in PRUNED_THEMSELVES else "ticket"


def criterion_of(source: str) -> str:
    """Return the criterion of a mask source `by_<criterion>`, or an empty string for other sources."""
    return source.removeprefix("by_").partition("-")[0] if source.startswith("by_") else ""


def prunes_dense(source: str) -> bool:
    """Return whether all masks of a source are found by pruning the dense network of a trial."""
    return source == "oneshot" or bool(criterion_of(source))


ARMS = {
    arm.name: arm
    for arm in (
        # the mask found by iterative pruning, with weights rewound to iteration 0 or `rewind_to` (with `restart: best`
        # it continues from the weights at early stopping)
        Arm("ticket", "ticket", "rewound", "winning ticket", "#1f5fa8", resumes=True),
        # the ticket's mask, with newly drawn weights
        Arm(
            "reinit", "ticket", "fresh", "reinitialised ticket", "#d1642a", "--", "s",
            drawn="reinit_draws", purpose="reinit",
        ),
        # a random mask with as many weights in each layer as the ticket, and the initial weights
        Arm(
            "random", "ticket", "initial", "random sparse network", "#808080", ":", "^",
            shuffled=True, drawn="random_draws", purpose="random mask",
        ),
        # as many weights as the ticket, chosen by pruning the trained dense network once; weights rewound, or redrawn
        Arm("oneshot", "oneshot", "rewound", "one-shot ticket", "#c07fae", "-", "D", resumes=True),
        Arm(
            "oneshot_reinit", "oneshot", "fresh", "reinitialised one-shot ticket", "#b8860b", "--", "v",
            drawn="reinit_draws", purpose="reinit",
        ),
        # iterative pruning that continues from the trained weights, with the learning-rate schedule from `rewind_to` on
        # (learning-rate rewinding, arXiv 2003.02389); and its mask with rewound weights (the paper's Figure 9, second
        # strategy)
        Arm("continued", "continued", "trained", "continued training", "#222222", "-.", "P", resumes=True),
        Arm(
            "continued_reset", "continued", "rewound", "mask of continued training, rewound", "#8c6d31", "--", "X",
            resumes=True,
        ),
        # like continued, but at the final learning rate of the dense network throughout: fine-tuning
        Arm("fine_tuned", "fine_tuned", "trained", "fine-tuned", "#a5282c", "-.", "d", fine_tuned=True, resumes=True),
        # a mask found on another data set (lthcore/lottery/transfer.py), unchanged and shuffled within each layer
        Arm("transferred", "elsewhere", "initial", "mask from the other data set", "#7a4fa3", "-", "D"),
        Arm(
            "transferred-shuffled", "elsewhere", "initial", "that mask, shuffled within layers", "#808080", ":", "^",
            shuffled=True,
        ),
        # the ticket's mask, with weights drawn from those that the ticket starts with, layer by layer
        Arm(
            "resampled", "ticket", "resampled", "weights drawn from the ticket's own", "#2a9d8f", "--", "v",
            drawn="reinit_draws", resumes=True,
        ),
        # the ticket with Gaussian noise added to the weights that it starts with
        *(
            Arm(
                f"noise_{sigmas:g}", "ticket", "noisy", f"ticket + {sigmas:g} sigma of noise", colour, "-", marker,
                sigmas=sigmas, resumes=True,
            )
            for sigmas, colour, marker in (
                (0.5, "#9fb8dd", "v"), (1.0, "#8c8cc4", "D"), (2.0, "#8856a7", "^"), (3.0, "#6b0f5c", "X"),
            )
        ),
        # not an arm of a search: a network that is pruned during training (lthcore/lottery/dynamic.py)
        Arm("dynamic", "training", "initial", "pruned while it trains", "#2a9d8f"),
    )
}  # fmt: skip
OURS = frozenset(ARMS)  # all other arms are user-defined
PRUNED_THEMSELVES = tuple(name for name, arm in ARMS.items() if arm.is_pruned_itself)

# Suffixes of `by_<criterion>`: controls without the mask's weights, positions or ranking.
# Each has the fields of Arm that change, an addition to the label, a line style and a marker.
CHANGES = {
    "": ({}, "", "", "o"),
    "shuffled": ({"shuffled": True}, ", shuffled within layers", ":", "^"),
    "fresh": ({"weights": "fresh", "resumes": False}, ", reinitialised", "--", "s"),
    "inverted": ({}, ", worst weights kept", "-.", "v"),
    "signed": ({"weights": "signed_initial", "resumes": False}, ", signs only", "--", "X"),
}
BY_CRITERION = re.compile(rf"by_([A-Za-z_]\w*?)(?:-({'|'.join(filter(None, CHANGES))}))?")


def arm_of(name: str) -> Arm:
    """Return the arm of this name. Raises LabError if there is none."""
    if name in ARMS:
        return ARMS[name]
    found = BY_CRITERION.fullmatch(name)
    if not found:
        choose_registered("arms", name, ARMS, also="by_<criterion>")  # raises
    criterion, change = found[1], found[2] or ""
    changed, words, style, marker = CHANGES[change]
    label, colour, own_style = _drawn_as(criterion)
    masks = name if change == "inverted" else f"by_{criterion}"
    arm = Arm(name, masks, "rewound", label + words, colour, style or own_style, marker, resumes=True)
    return replace(arm, **changed)


def _drawn_as(criterion: str) -> tuple[str, str, str]:
    """Return the label, colour and line style of a criterion."""
    known = CRITERIA.get(criterion)
    return (known.label, known.colour, known.style) if known else (criterion.replace("_", " "), UNCOLOURED, "-")
