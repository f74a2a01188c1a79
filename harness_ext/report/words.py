"""Numbers in sentences."""

from collections.abc import Sequence


def percent(share: float) -> str:
    """Write a share as in ``74.5%``."""
    return f"{100 * share:.1f}%"


def interval(low: float | None, high: float | None, level: int = 95) -> str:
    """Write an interval of shares or differences as in ``95% interval 71.5 to 77.3``."""
    return "no interval" if low is None or high is None else f"{level}% interval {number(low)} to {number(high)}"


def number(share: float) -> str:
    """Write a share in points, with a minus sign that is no hyphen, and none before 0.0."""
    return f"{100 * share:.1f}".replace("-0.0", "0.0").replace("-", "−")


def points(share: float) -> str:
    """Write how large a difference is, as in ``2.4 points``."""
    return f"{100 * abs(share):.1f} points"


def p_text(p: float) -> str:
    """Write a p so that none is shown as 0."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def labels(samples: int | str | None) -> str:
    """Write a number of labels."""
    return f"{samples:,}" if isinstance(samples, int) else str(samples)


def listed(items: Sequence[str]) -> str:
    """Join as in ``a, b and c``."""
    return " and ".join(filter(None, [", ".join(items[:-1]), *items[-1:]]))
