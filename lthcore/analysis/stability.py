"""Stability of a rewinding point: error barriers of the dense network and of tickets (arXiv 1912.05671)."""

import pandas as pd

from lthcore.analysis.cache import TicketStore
from lthcore.analysis.connectivity import instability
from lthcore.errors import LabError
from lthcore.lottery.start import begin


def stability(tickets: TicketStore) -> pd.DataFrame:
    """Return the barriers between two copies trained from the rewinding point with different orders of the data.

    The table has a row for each trial and every second round (round 0 is the dense network). Columns are rewind_to,
    trial, round, percent_left, error_barrier, loss_barrier (nats) and error, the mean test error of the two copies.
    Raises LabError for a run whose tickets are not rewound.
    """
    s, rows = tickets.settings, []
    if s.restart != "rewind":
        raise LabError(f"restart = {s.restart}: this study needs a run with restart = rewind")
    for trial in range(s.trials):
        dense = tickets(trial, 0)
        for k in range(0, s.rounds + 1, 2):
            state = begin(s, trial, k, dense.rewind or dense.start, tickets(trial, k).mask, iteration=s.rewind_to)
            where = {"rewind_to": s.rewind_to, "trial": trial, "round": k, "percent_left": tickets.percent_left[k]}
            rows.append(where | instability(s, tickets.data, state))
    return pd.DataFrame(rows)
