"""Runs: an experiment carried out in a folder of its own, stopped and resumed at will, on one machine or many."""
