"""Study of high-movement pruning and its controls. Figures and sentences, made only from the committed tables."""

from lthcore.report.studies.movement_pruning.comparisons import answer, findings, levels_of_conv4
from lthcore.report.studies.movement_pruning.criteria import movement_arms, movement_immovable, movement_layers
from lthcore.report.studies.movement_pruning.rounds import movement_rounds, pruning_rounds
from lthcore.report.study import Study

__all__ = [
    "STUDY", "answer", "findings", "levels_of_conv4", "movement_arms", "movement_immovable", "movement_layers",
    "movement_rounds", "pruning_rounds",
]  # fmt: skip

STUDY = Study(
    "movement_pruning",
    "Should the weights that move most be kept, or pruned?",
    {
        "movement_rounds": movement_rounds,
        "movement_arms": movement_arms,
        "movement_layers": movement_layers,
        "movement_immovable": movement_immovable,
    },
    findings,
    answer,
)
