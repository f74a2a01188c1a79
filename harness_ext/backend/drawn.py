"""What tells drawn answers apart: each follows from the run's seed, its document, and how often that was asked.

Knows lm-eval's requests; nothing of models.
"""

from collections import Counter


def are_drawn(requests: list) -> bool:
    """Tell whether answers are drawn, as lm-eval tells it: it keeps none of those."""
    return any(request.args[1].get("do_sample") for request in requests)


def turns(requests: list) -> list[tuple[int, int]]:
    """Return each request's document, and how often that has been asked before."""
    seen: Counter[int] = Counter()
    found = []
    for request in requests:
        found.append((request.doc_id, seen[request.doc_id]))
        seen[request.doc_id] += 1
    return found


def name(document: int, turn: int) -> str:
    """Name a drawn answer, as lm-eval's name, the text, does not tell two apart."""
    return f"drawn for {document}, {turn}"


def names(requests: list) -> list[str]:
    """Name the answers to requests."""
    return [name(*turn) for turn in turns(requests)]
