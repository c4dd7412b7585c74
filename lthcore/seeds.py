"""Seeds: where every random number comes from."""

import hashlib
import json


def seed_for(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed for one purpose: everything random here draws from a generator of its own, seeded so."""
    text = json.dumps([seed, *purpose])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
