"""What runs cost: the user's ``prices.yaml``, and the price of 1,000 decisions of a record.

currency: EUR
machines:            # per hour; a part of the name that the record has under `hardware`
  NVIDIA H200: 4.0
models:              # per million tokens, by the model's name; goes before the machine's price
  gpt-x: {in: 0.15, out: 0.60}
"""

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from harness_ext.errors import UserError, did_you_mean
from harness_ext.results.tables import visible

FIELDS = ("currency", "machines", "models")
DECISIONS = 1000


@dataclass(frozen=True)
class Prices:
    """The user's prices, checked."""

    path: Path
    currency: str
    machines: dict[str, float]  # per hour, by a part of the machine's name
    models: dict[str, dict[str, float]]  # in and out, per million tokens


def read(path: Path) -> Prices | None:
    """Read and check a file of prices; None where there is none."""
    if not path.exists():
        return None
    try:
        said = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(
            f"{path} cannot be read as YAML ({' '.join(str(error).split())}). Mend it, or take it away."
        ) from error
    _fields(path, "it", said, FIELDS)
    currency = said.get("currency")
    if not isinstance(currency, str) or not currency.strip():
        raise UserError(f"{path}: currency {currency!r} is no text. Write for example `currency: EUR`.")
    machines, models = (_named(path, name, said.get(name) or {}) for name in ("machines", "models"))
    return Prices(
        path,
        currency.strip(),
        {name: _price(path, name, value) for name, value in machines.items()},
        {name: _per_token(path, name, value) for name, value in models.items()},
    )


def per_1000(prices: Prices | None, record: Mapping[str, Any]) -> float | None:
    """Return the price of 1,000 decisions as a run made them; None where no price is for it or its speed is not known.

    A machine is paid by the hour, and busy.
    """
    if prices is None:
        return None
    tokens = record.get("tokens") or {}
    model = prices.models.get(record["model"])
    if model:
        if not record["n"] or None in (tokens.get("in"), tokens.get("out")):
            return None
        return DECISIONS / record["n"] * (tokens["in"] * model["in"] + tokens["out"] * model["out"]) / 1e6
    hardware = str(record.get("hardware"))
    found = [name for name in prices.machines if name.casefold() in hardware.casefold()]
    if len(found) > 1:
        raise UserError(
            f"{prices.path}: {' and '.join(map(repr, found))} are both in the name of machine {hardware!r}. Keep one."
        )
    speed = record.get("docs_per_s")
    return DECISIONS / speed / 3600 * prices.machines[found[0]] if found and speed else None


def say_unused(prices: Prices | None, records: Iterable[Mapping[str, Any]]) -> None:
    """Say on standard error which names of a price list no record has, and which machines there are."""
    if prices is None:
        return
    known = list(records)
    machines = sorted({str(record.get("hardware")) for record in known})
    unused = [name for name in prices.machines if not any(name.casefold() in each.casefold() for each in machines)]
    unused += [name for name in prices.models if name not in {record["model"] for record in known}]
    if unused:
        names = " or ".join(visible(repr(name)) for name in unused)
        print(
            f"{prices.path}: no run was made by {names}. The machines are {visible('; '.join(machines))}.", file=sys.stderr
        )


def _fields(path: Path, what: str, said: Any, known: tuple[str, ...]) -> None:
    if not isinstance(said, dict):
        raise UserError(f"{path}: {what} has no fields. It takes {', '.join(known)}.")
    for name in said:
        if name not in known:
            raise UserError(f"{path}: {name!r} is unknown; {what} takes {', '.join(known)}.{did_you_mean(str(name), known)}")


def _named(path: Path, name: str, said: Any) -> dict[str, Any]:
    if not isinstance(said, dict):
        raise UserError(f"{path}: {name} is {said!r}. Write a name and its price on each line under it.")
    return {str(each): value for each, value in said.items()}


def _per_token(path: Path, name: str, said: Any) -> dict[str, float]:
    _fields(path, f"model {name!r}", said, ("in", "out"))
    return {side: _price(path, f"{name}: {side}", said.get(side)) for side in ("in", "out")}


def _price(path: Path, name: str, said: Any) -> float:
    if isinstance(said, bool) or not isinstance(said, int | float) or not 0 <= said < 1e12:
        raise UserError(f"{path}: the price of {name!r} is {said!r}. Write a number from 0 up, without a unit.")
    return float(said)
