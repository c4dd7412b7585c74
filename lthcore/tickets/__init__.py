"""Winning tickets of committed runs, to train, to transfer and to export."""
