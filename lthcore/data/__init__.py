"""Data of experiments as tensors: split, scaled and augmented."""
