"""Seeds of the random number generators."""

import hashlib
import json


def seed_for(seed: int, *purpose: str | int) -> int:
    """Return a 63-bit seed for one purpose, derived from `seed`.

    Every use of random numbers in this package has its own generator, seeded in this way.
    """
    text = json.dumps([seed, *purpose])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
