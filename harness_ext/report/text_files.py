"""Reading files that someone else wrote, with an error line for each way in which they are not what they should be."""

import json
from pathlib import Path
from typing import Any

from harness_ext.errors import UserError


def read_text(path: Path) -> str:
    """Read UTF-8, with or without a byte order mark."""
    try:
        data = path.read_bytes()
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"it cannot be read ({error.strerror}).") from None
    except UnicodeDecodeError as error:
        raise UserError(f"line {data.count(bytes([10]), 0, error.start) + 1} is not UTF-8 text.") from None
    if not text.strip():
        raise UserError("it is empty.")
    return text


def parse_json(text: str | bytes, where: str) -> Any:
    """Parse JSON; `where` says in the error line what was parsed."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply or no text"
        raise UserError(f"{where} is not JSON ({reason}); perhaps it was only half written.") from None
