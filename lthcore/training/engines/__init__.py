"""Engines: what takes the steps of a training. All have the interface of `dense.Dense`, and agree to rounding."""
