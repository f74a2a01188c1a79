"""README's results, as the commands make them: `python tests/readme.py` writes them between README's marks.

The verdict is that of `make report`, the tables are those of `make leaderboard`, of the runs in results/published.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from harness_ext.paths import ROOT
from harness_ext.report import answer
from harness_ext.results import label_efficiency, runs, standings, unlabelled

README = ROOT / "README.md"


def blocks(entries: Sequence[standings.Entry]) -> dict[str, str]:
    """Return what stands between each pair of marks."""
    headline, _, _, *more, _ = answer.sentences(entries)  # without who is best at what, and who took no part
    return {
        "verdict": f"> {headline}\n>\n> {' '.join(more)}",
        "labels": "\n".join(label_efficiency.markdown(entries)).strip(),
        "unlabelled": "\n".join(unlabelled.markdown(entries)).strip(),
    }


def between(name: str) -> "re.Pattern[str]":
    """Find what stands between a pair of marks."""
    return re.compile(rf"(?<=<!-- {name} -->\n)(.*?)(?=\n<!-- end of {name} -->)", re.DOTALL)


def main() -> None:
    """Write README anew."""
    text = README.read_text(encoding="utf-8")
    with TemporaryDirectory() as out:  # without the runs that someone has made here
        Path(out, "published").symlink_to(ROOT / "results" / "published")
        entries = standings.entries(runs.read_all(Path(out)))
    for name, block in blocks(entries).items():
        text = between(name).sub(lambda _, block=block: block, text)  # type: ignore[misc]
    README.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
