"""What the names of two classes say about which of them is 1. Pure."""

import re
import unicodedata
from collections.abc import Sequence

# What names say of 0 and of 1, as their beginnings in several languages, lower case and without accents.
_SAY = (
    (
        ("neg", "отриц", "негат", "负", "消极", "差评", "ネガ", "부정"),
        ("pos", "poz", "полож", "позит", "正", "积极", "好评", "ポジ", "긍정"),
    ),
    (("bad",), ("good",)),
    (("false",), ("true",)),
    (("no",), ("yes",)),
)
_NUMBERED = re.compile(r"(.*?)([01])")  # LABEL_0, class1, 0
_WHOLE = {"bad", "good", "false", "true", "no", "yes"}  # words that begin others (notable) count only as they stand


def which_is_one(first: str, second: str) -> tuple[int, str] | None:
    """Return the index of the name that means 1, and how that is known; None where nothing tells."""
    first, second = plain(first), plain(second)
    for zero, one, index in ((first, second, 1), (second, first, 0)):
        if any(_says(zero, zeros) and _says(one, ones) for zeros, ones in _SAY):
            return index, "by their names"
    numbered = [_NUMBERED.fullmatch(name) for name in (first, second)]
    if numbered[0] and numbered[1] and numbered[0][1] == numbered[1][1] and numbered[0][2] != numbered[1][2]:
        return int(numbered[1][2] == "1"), "by their numbers; their names say no more"
    return None


def plain(name: str) -> str:
    """Drop case, accents and blanks."""
    spread = unicodedata.normalize("NFKD", name.strip().casefold())
    return "".join(letter for letter in spread if not unicodedata.combining(letter))


def _says(name: str, beginnings: Sequence[str]) -> bool:
    return any(name == each if each in _WHOLE else name.startswith(plain(each)) for each in beginnings)
