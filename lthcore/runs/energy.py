"""Energy use and emissions of a run, metered by codecarbon if `LTH_ENERGY=1` is set.

Without a power meter the numbers are estimates from the rated power and the load of the processor, and are marked so.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from lthcore.errors import LabError

COUNTRY = "USA"  # emissions are those of its power grid; LTH_COUNTRY overrides it (three letters)
METERS = ("intel_rapl", "intel_power_gadget", "powermetrics")  # codecarbon's names of power meters


@contextmanager
def metered(before: dict | None = None) -> Iterator[dict]:
    """Meter the energy used within the context; yield a dict that is filled at the end.

    Its keys are kwh, co2e_kg, seconds (metered time), basis ("measured" with a power meter, else "estimated"), country
    and tool. `before` holds the values of earlier sessions, which are added. Without LTH_ENERGY nothing is metered and
    the dict is a copy of `before`. Raises LabError if LTH_ENERGY is set and codecarbon is not installed.
    """
    found = dict(before or {})
    if os.environ.get("LTH_ENERGY", "0") in ("", "0"):
        yield found
        return
    try:
        import codecarbon
    except ImportError:
        raise LabError(
            "energy: codecarbon is not installed here; pip install 'lthcore[energy]', or unset LTH_ENERGY"
        ) from None
    country = os.environ.get("LTH_COUNTRY", COUNTRY)
    tracker = codecarbon.OfflineEmissionsTracker(
        country_iso_code=country, save_to_file=False, log_level="critical", allow_multiple_runs=True
    )
    tracker.start()
    try:
        yield found
    finally:
        emitted = tracker.stop() or 0.0
        data = tracker.final_emissions_data
        parts = [str(getattr(part, "_mode", "")) for part in tracker._hardware]
        basis = "measured" if any(part in METERS for part in parts) else "estimated"
        found |= {
            "kwh": round(found.get("kwh", 0.0) + data.energy_consumed, 12),
            "co2e_kg": round(found.get("co2e_kg", 0.0) + emitted, 12),
            "seconds": round(found.get("seconds", 0.0) + data.duration, 1),  # metered time of all sessions
            "basis": "estimated" if found.get("basis") == "estimated" else basis,
            "country": country,
            "tool": f"codecarbon {codecarbon.__version__}",
        }
