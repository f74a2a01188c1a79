"""Which document of one log is which of another's: by hash where both have any in common, else by id.

Nothing is left out silently: logs of which some documents have no partner are refused.
"""

from collections import Counter
from collections.abc import Sequence

from harness_ext.errors import UserError
from harness_ext.report.logs import Log, Side


def aligned(a: Side, b: Side) -> Side:
    """Return B with its documents in the order of A's."""
    data = [side.runs[0].record.get("data_fingerprint") for side in (a, b) if side.runs]
    if len(data) == 2 and None not in data and data[0] != data[1]:
        names = [f"{side.runs[0].record.get('data')} ({print})" for side, print in zip((a, b), data, strict=True)]
        raise UserError(f"A and B were asked other data: {names[0]} and {names[1]}. Compare runs on the same data.")
    order = _order(a.logs[0], b.logs[0])
    return Side(b.name, tuple(log.take(order) for log in b.logs), b.seeds, b.runs)


def _order(a: Log, b: Log) -> list[int]:
    by_hash = set(a.hashes) & set(b.hashes)
    in_a, in_b = (_numbered(log.hashes if by_hash else log.ids) for log in (a, b))
    alone_a = [a.ids[n] for name, n in in_a.items() if name not in in_b]
    alone_b = [b.ids[n] for name, n in in_b.items() if name not in in_a]
    if alone_a or alone_b:
        raise UserError(
            f"The documents do not match: {len(in_a) - len(alone_a)} are in both, {_some(alone_a, 'A')}, "
            f"{_some(alone_b, 'B')}. "
            "Compare logs on the same documents."
        )
    order = [in_b[name] for name in in_a]
    if other := [name for name, gold, n in zip(a.ids, a.gold, order, strict=True) if gold != b.gold[n]]:
        raise UserError(
            f"The gold labels of {len(other)} of {len(order)} documents differ, those of {_named(other)} among them: "
            "they are other documents, or other labels."
        )
    return order


def _numbered(names: Sequence[str]) -> dict[tuple[str, int], int]:
    """Return the place of each name; rows that are the same have the same hash, and are told apart by their order."""
    seen: Counter[str] = Counter()
    places = {}
    for place, name in enumerate(names):
        places[name, seen[name]] = place
        seen[name] += 1
    return places


def _some(alone: Sequence[str], side: str) -> str:
    return f"{len(alone)} in {side} alone" + (f" ({_named(alone)})" if alone else "")


def _named(ids: Sequence[str]) -> str:
    return ", ".join(repr(name[:40]) for name in ids[:3])
