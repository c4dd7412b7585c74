"""Gallery: the figures of the studies beyond the paper's, by name; each is None where its tables are not there."""

from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure

from lthcore.report import dynamic_figures as dynamic
from lthcore.report import mask_figures as masks
from lthcore.report import origin_figures as origins
from lthcore.report import pruning_figures as pruning
from lthcore.report import ticket_figures as tickets

FIGURES: dict[str, Callable[[Path], Figure | None]] = {
    "dynamic_training": dynamic.dynamic_lenet,
    "dynamic_sparsities": dynamic.dynamic_sparsities,
    "dynamic_schedules": dynamic.dynamic_schedules,
    "dynamic_sensitivity": dynamic.dynamic_sensitivity,
    "dynamic_costs": dynamic.dynamic_costs,
    "movement_rounds": pruning.movement_rounds,
    "movement_arms": pruning.movement_arms,
    "movement_layers": pruning.movement_layers,
    "robust_training": pruning.robust_training,
    "robust_ablation": pruning.robust_ablation,
    "structured_pruning": pruning.structured_pruning,
    "deconstructing": masks.deconstructing_lenet,
    "pruning_at_init": masks.pruning_at_init_lenet,
    "ticket_structure": tickets.structure_lenet,
    "ticket_degrees": tickets.degrees_lenet,
    "ticket_pixels": tickets.pixels_lenet,
    "ticket_similarity": tickets.similarity_lenet,
    "mask_transfer": origins.transfer_lenet,
    "rewinding_and_connectivity": origins.rewinding_lenet,
    "mask_prediction": origins.prediction_lenet,
    "seeded_initialisations": origins.seeding_lenet,
    "supermasks": origins.supermasks_lenet,
}
