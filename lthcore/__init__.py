"""lthcore: data, models, masks, pruning and training for the Lottery Ticket Hypothesis."""

__version__ = "0.1.0"
