"""Energy: what a run used and emitted, by codecarbon where it is installed and asked for (`LTH_ENERGY=1`).

A number without a power meter behind it is an estimate from the processor's rating and its load, and says so.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from lthcore.errors import LabError

COUNTRY = "USA"  # whose grid emissions are reckoned by, unless LTH_COUNTRY names another (three letters)
METERS = ("intel_rapl", "intel_power_gadget", "powermetrics")  # codecarbon's names of what measures power


@contextmanager
def metered(before: dict | None = None) -> Iterator[dict]:
    """Meter what happens within; the dict is filled at the end, `before` (of earlier sittings) added.

    kwh, co2e_kg, seconds (those metered), basis ("measured" with a power meter, else "estimated"), country, tool. Empty
    where it was not asked for. Raises LabError where codecarbon is asked for and not installed.
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
            "seconds": round(found.get("seconds", 0.0) + data.duration, 1),  # those metered, of all sittings
            "basis": "estimated" if found.get("basis") == "estimated" else basis,
            "country": country,
            "tool": f"codecarbon {codecarbon.__version__}",
        }
