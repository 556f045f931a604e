"""Seeds made of several numbers."""

from __future__ import annotations

import hashlib


def mixed(*numbers: int) -> int:
    """One seed from several numbers."""
    text = ",".join(map(str, numbers)).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:7], "big")
