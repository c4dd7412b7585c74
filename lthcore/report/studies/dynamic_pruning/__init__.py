"""Study of dynamic pruning. Figures and sentences, made only from the committed tables."""

from lthcore.report.studies.dynamic_pruning.accuracies import dynamic_schedules, dynamic_sparsities
from lthcore.report.studies.dynamic_pruning.comparisons import answer, findings
from lthcore.report.studies.dynamic_pruning.costs import at_equal_cost, dynamic_costs
from lthcore.report.studies.dynamic_pruning.factors import dynamic_sensitivity, sensitivity
from lthcore.report.studies.dynamic_pruning.training_runs import dynamic_lenet, dynamic_training
from lthcore.report.study import Study

__all__ = [
    "STUDY", "answer", "at_equal_cost", "dynamic_costs", "dynamic_lenet", "dynamic_schedules", "dynamic_sensitivity",
    "dynamic_sparsities", "dynamic_training", "findings", "sensitivity",
]  # fmt: skip

STUDY = Study(
    "dynamic_pruning",
    "Can a network be pruned within one training run?",
    {
        "dynamic_training": dynamic_lenet,
        "dynamic_sparsities": dynamic_sparsities,
        "dynamic_schedules": dynamic_schedules,
        "dynamic_sensitivity": dynamic_sensitivity,
        "dynamic_costs": dynamic_costs,
    },
    findings,
    answer,
)
