"""Lottery: the search for winning tickets, its arms and controls, and the studies that vary it."""
