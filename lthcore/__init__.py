"""lthcore: the lottery ticket hypothesis, from data and masks to figures. The main names can be imported from here.

    from lthcore import Settings, find_tickets, load_data
    settings = Settings(dataset="digits", architecture="mlp", validation=200, iterations=500)
    for outcomes in find_tickets(settings, load_data(settings)):
        ...

Each name is imported on first access.
"""

from importlib import import_module

__version__ = "0.1.0"

_FACE = {  # name -> where it is defined
    "Settings": "settings.Settings",
    "DynamicSettings": "settings.DynamicSettings",
    "TransferSettings": "settings.TransferSettings",
    "LabError": "errors.LabError",
    "project_root": "paths.project_root",
    "results_root": "paths.results_root",
    "load_data": "data.datasets.load",
    "register_model": "models.architectures.register_model",
    "register_criterion": "pruning.criteria.register_criterion",
    "register_dataset": "sources.dataset.register_dataset",
    "register_arm": "lottery.start.register_arm",
    "Dataset": "sources.dataset.Dataset",
    "Raw": "sources.dataset.Raw",
    "build_model": "models.build.build",
    "initial_weights": "models.weights.initial_weights",
    "full_mask": "masks.full_mask",
    "percent_left": "masks.percent_left",
    "layer_rates": "pruning.allocation.layer_rates",
    "prune": "pruning.allocation.prune",
    "train": "training.loop.train",
    "find_tickets": "lottery.search.find_tickets",
    "run": "runs.runner.run",
    "read_record": "runs.files.read_record",
    "read_table": "runs.files.read_table",
    "read_tables": "runs.files.read_tables",
    "load_ticket": "tickets.load.load_ticket",
    "load_ticket_file": "runs.checkpoints.load_ticket_file",
    "export_ticket": "tickets.export.export_ticket",
    "load_and_evaluate": "runs.checkpoints.load_and_evaluate",
    "cached_table": "analysis.cache.cached_table",
}
__all__ = list(_FACE)


def __getattr__(name: str) -> object:
    if name not in _FACE:
        raise AttributeError(f"module 'lthcore' has no attribute {name!r}")
    module, _, attribute = _FACE[name].rpartition(".")
    return getattr(import_module(f"lthcore.{module}"), attribute)


def __dir__() -> list[str]:
    return sorted([*globals(), *_FACE])
