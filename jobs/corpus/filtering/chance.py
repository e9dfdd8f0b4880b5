"""Numbers that are drawn from the id of a document, so that no task and no order changes them."""

from __future__ import annotations

import hashlib


def drawn(purpose: str, identity: str, seed: int) -> float:
    """Return a number in [0, 1) that depends on its arguments alone."""
    key = f"{seed}:{identity}".encode()
    hashed = hashlib.blake2b(key, digest_size=8, person=purpose.encode()).digest()
    return (int.from_bytes(hashed, "big") >> 11) * 2.0**-53
