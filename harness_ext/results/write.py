"""The leaderboard's files: read every record under OUT, write what is made of them."""

import os
from pathlib import Path
from typing import Any

from harness_ext.errors import UserError, writing_to
from harness_ext.results import label_efficiency, leaderboard, records, render, reported


def write_leaderboard(out: Path) -> tuple[list[dict[str, Any]], list[Path]]:
    """Write the leaderboard of all complete runs under OUT, and a picture of scores by labels; return rows and files."""
    board = leaderboard.rows(records.read_runs(out), reported.scores())
    if not board:
        raise UserError(f"No complete run under {out / 'runs'}. Run `make eval` first, or name another folder with OUT=.")
    texts = {out / "leaderboard.md": render.markdown(board), out / "leaderboard.csv": render.as_csv(board)}
    files = list(texts)
    with writing_to(out):
        for path, text in texts.items():
            temporary = path.with_name(f".{path.name}.{os.getpid()}")
            temporary.write_text(text, encoding="utf-8")
            temporary.replace(path)
        if scores := label_efficiency.by_samples(board):
            files += label_efficiency.draw(scores, out / "label-efficiency")
    return board, files
