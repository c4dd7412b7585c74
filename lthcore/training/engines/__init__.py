"""Engines, which take the training steps. All have the interface `engine.Engine` and agree up to rounding."""
