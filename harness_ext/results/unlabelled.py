"""What a model scores without a label, by how it is asked: digits or words, written or chosen. And what the format costs."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from harness_ext.evidence.contrast import contrast
from harness_ext.results import names
from harness_ext.results.standings import Entry
from harness_ext.results.tables import markdown_table
from harness_ext.results.words import hundredths

EXPLAINED = """\
Written: score by what the model writes (in brackets: answers without a label). Chosen: by the likelier of the two answers.
By context, by batch: words chosen, at a boundary from texts without content or from unlabelled rows. AUROC and best
boundary: of the words' likelihoods, or of the digits' where no words were asked; the best boundary is chosen on these
documents, so it is a bound. Format tax: words chosen minus digits written, in points, with its 95% interval."""
_FORMS = ("_words_choice", "_words", "_choice", "")  # what the name of a task ends in, the longest first
HEADS = [
    "model", "question", "written", "chosen", "words written", "words chosen", "by context", "by batch", "AUROC",
    "best boundary", "format tax",
]  # fmt: skip


def markdown(entries: Iterable[Entry]) -> list[str]:
    """Render a table: a row for each model, settings, wording and data that was asked in more than one way."""
    found = rows(entries)
    return markdown_table(HEADS, found) if found else []


def rows(entries: Iterable[Entry]) -> list[list[str]]:
    """Write the rows of that table."""
    asked: dict[tuple[str, ...], dict[str, Entry]] = defaultdict(dict)
    for entry in entries:
        if entry.samples == 0 and not entry.partial and not entry.stale and entry.record.get("method") != "examples":
            task, form = _form(entry.record)
            data = str(entry.record.get("data_fingerprint")), str(entry.record.get("data"))
            asked[(*_who(entry.record), task, *data)].setdefault(form, entry)
    found: list[tuple[Any, ...]] = [(*who, _cells(forms)) for who, forms in sorted(asked.items()) if len(forms) > 1]
    several = len({fingerprint for *_, fingerprint, _, _ in found}) > 1
    return [[f"{who}{more}", f"{task}, {data}" if several else task, *cells] for who, more, task, _, data, cells in found]


def _who(record: dict[str, Any]) -> tuple[str, str]:
    """Name a model with what else must be the same: settings and precision."""
    dtype = (record.get("settings") or {}).get("dtype")
    settings = {name: value for name, value in names.settings_of(record).items() if name != "dtype"}
    more = [str(each) for each in (dtype, names.settings_text(settings)) if each]
    return names.model_of(record), "".join(f", {each}" for each in more)


def _form(record: dict[str, Any]) -> tuple[str, str]:
    """Split a task's name into the wording and how it is to be answered, with the calibration behind that."""
    form = next(form for form in _FORMS if record["task"].endswith(form))
    way = (record.get("not_default") or {}).get("calibrated")
    return record["task"].removesuffix(form), f"{form} {way}" if way else form


def _cells(forms: dict[str, Entry]) -> list[str]:
    words = "_words_choice"
    best = forms.get(words) or forms.get("_choice")
    margins = (best.record.get("margins") or {}) if best else {}
    return [
        _written(forms.get("")),
        _score(forms.get("_choice")),
        _written(forms.get("_words")),
        *(_score(forms.get(form)) for form in (words, f"{words} by context", f"{words} by batch")),
        f"{margins['auroc']:.3f}" if margins.get("auroc") is not None else "",
        hundredths(margins.get("best_score")),
        _tax(forms.get(words), forms.get("")),
    ]


def _score(entry: Entry | None) -> str:
    return hundredths(entry.score.mean) if entry else ""


def _written(entry: Entry | None) -> str:
    return f"{_score(entry)} ({sum(entry.not_following.values()):.3g})" if entry else ""


def _tax(words: Entry | None, digits: Entry | None) -> str:
    if not (words and digits and words.method and digits.method):
        return ""
    found = contrast(words.method, digits.method)
    bounds = "" if found.low is None or found.high is None else f" ({100 * found.low:.1f} to {100 * found.high:.1f})"
    return f"{100 * found.difference:+.1f}{bounds}"
