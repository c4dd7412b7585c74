"""The studies, one file each, named after its notebook: its figures, and its sentences."""

from lthcore.report.studies import (
    deconstructing,
    dynamic_pruning,
    iterative_pruning,
    mask_prediction,
    mask_transfer,
    movement_pruning,
    pruning_at_init,
    rewinding_and_connectivity,
    robust_training,
    structured_pruning,
    ticket_similarity,
    ticket_structure,
)
from lthcore.report.study import Study

STUDIES: dict[str, Study] = {
    module.STUDY.name: module.STUDY
    for module in (
        iterative_pruning, dynamic_pruning, movement_pruning, robust_training, structured_pruning,
        deconstructing, pruning_at_init, ticket_structure, ticket_similarity, mask_transfer,
        rewinding_and_connectivity, mask_prediction,
    )
}  # fmt: skip

# The notebooks as chapters of a course. Each says its place, and ends with a link to the next.
COURSE = (
    "quickstart", "iterative_pruning", "paper_figures", "claims", "rewinding_and_connectivity", "deconstructing",
    "pruning_at_init", "movement_pruning", "dynamic_pruning", "dynamic_summary", "structured_pruning",
    "robust_training", "ticket_structure", "ticket_similarity", "mask_transfer", "mask_prediction", "your_own_model",
)  # fmt: skip
