"""Numbers as people read them, in sentences and in tables; shares come in 0-1."""

from collections.abc import Sequence


def percent(share: float) -> str:
    """Write a share as in ``74.5%``."""
    return f"{100 * share:.1f}%"


def hundredths(share: float | None) -> str:
    """Write a share in percent with two digits, as 1 of 872 is 0.11; nothing for None."""
    return "" if share is None else f"{100 * share:.2f}"


def span(bounds: tuple[float | None, float | None] | None) -> str:
    """Write an interval in a table, as in ``71.5-77.3`` and ``-0.6 to 1.2``; nothing for None."""
    low, high = bounds or (None, None)
    if low is None or high is None:
        return ""
    return f"{100 * low:.1f}{'-' if low >= 0 else ' to '}{100 * high:.1f}"


def interval(low: float | None, high: float | None) -> str:
    """Write a 95% interval of shares or differences in a sentence, as in ``95% interval 71.5 to 77.3``."""
    return "no interval" if low is None or high is None else f"95% interval {number(low)} to {number(high)}"


def number(share: float) -> str:
    """Write a share in points, with a minus sign that is no hyphen, and none before 0.0."""
    return f"{100 * share:.1f}".replace("-0.0", "0.0").replace("-", "−")


def points(share: float) -> str:
    """Write how large a difference is, as in ``2.4 points``."""
    return f"{100 * abs(share):.1f} points"


def p_text(p: float) -> str:
    """Write a p so that none is shown as 0."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def ranks(low: int, high: int) -> str:
    """Write which ranks are possible, as in ``2-4``."""
    return str(low) if low == high else f"{low}-{high}"


def labels(samples: int | str | None) -> str:
    """Write a number of labels."""
    return f"{samples:,}" if isinstance(samples, int) else str(samples)


def in_order(samples: int | str | None) -> tuple[bool, bool, int]:
    """Sort numbers of labels, "all" behind them and last what is not known."""
    return samples is None, samples == "all", samples if isinstance(samples, int) else 0


def counted(count: int, thing: str) -> str:
    """Write how many there are, as in ``1 seed`` and ``3 seeds``."""
    return f"{count} {thing}{'s' * (count != 1)}"


def listed(items: Sequence[str]) -> str:
    """Join as in ``a, b and c``."""
    return " and ".join(filter(None, [", ".join(items[:-1]), *items[-1:]]))
