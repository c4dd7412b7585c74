"""Studies, one file or package each: the question, the figures and the sentences of the notebook of the same name."""

from importlib import import_module
from pkgutil import iter_modules

from lthcore.report.study import Study

# The notebooks in the order of a course. Each notebook states its place in the course and links to the next one.
COURSE = (
    "quickstart", "iterative_pruning", "paper_figures", "claims", "rewinding_and_connectivity", "deconstructing",
    "pruning_at_init", "movement_pruning", "dynamic_pruning", "dynamic_summary", "structured_pruning",
    "robust_training", "ticket_structure", "ticket_similarity", "mask_transfer", "mask_prediction", "take_home",
    "your_own_model",
)  # fmt: skip


def _in_order() -> list[Study]:
    """Return the studies of this folder in the order of the course, followed by those that are not part of it."""
    found = [import_module(f"{__name__}.{module.name}").STUDY for module in iter_modules(__path__)]
    return sorted(found, key=lambda study: COURSE.index(study.name) if study.name in COURSE else len(COURSE))


STUDIES: dict[str, Study] = {study.name: study for study in _in_order()}
