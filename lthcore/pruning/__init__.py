"""Pruning: how weights and units are scored, how many go in each layer, and which."""
