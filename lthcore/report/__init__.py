"""Figures, tables, graded claims and sentences, made only from the tables of runs."""
