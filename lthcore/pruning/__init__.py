"""Pruning: how weights and units are scored, how many are pruned in each layer, and which ones."""
