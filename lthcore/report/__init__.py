"""Report: figures, tables, graded claims and sentences, made from the tables of runs alone."""
