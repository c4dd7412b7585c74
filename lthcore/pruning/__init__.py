"""Pruning: how weights and units are scored, how many are pruned in each layer, and which ones."""

from lthcore.pruning import criteria, saliency, units  # noqa: F401 - they register the criteria
