"""Training: one step at a time, with checkpoints, on whatever engine is fastest here."""
