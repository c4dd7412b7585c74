"""Engines, which take the training steps. All have the interface of `dense.Dense` and agree up to rounding."""
