"""A hash over data: what has the same parts has the same key, on any machine and in any order."""

import hashlib
import json
from typing import Any


def hash_of(parts: Any) -> str:
    """Return SHA-256 over canonical JSON, 64 hex digits."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False, default=str).encode()).hexdigest()
