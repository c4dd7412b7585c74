"""Runs of experiments, each in its own results folder; they can be stopped and resumed, on one machine or many."""
