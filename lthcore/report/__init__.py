"""Figures, tables, graded claims and sentences, made only from the tables of runs."""

import lthcore.pruning  # noqa: F401 - registers the criteria, whose labels and colours are drawn
