"""Answers that lm-eval keeps go to the disk in transactions, and none is lost when a run ends, however it ends."""

import sqlite3
from typing import Any

import pytest
from sqlitedict import SqliteDict

from harness_ext.run import cache
from harness_ext.run.cache import kept_safely


class Model:
    """As far as lm-eval's cache is concerned."""

    hook: Any = None

    def set_cache_hook(self, hook):
        self.hook = hook


class Hook:
    def __init__(self, path):
        self.dbdict = SqliteDict(str(path), autocommit=True)


def stored(path):
    connection = sqlite3.connect(path)
    try:
        return connection.execute("SELECT count(*) FROM unnamed").fetchone()[0]
    finally:
        connection.close()


def test_each_writing_waits_for_the_disk_and_keeps_a_journal(tmp_path):
    lm = Model()
    with kept_safely(lm):
        lm.set_cache_hook(hook := Hook(tmp_path / "answers.db"))
        assert hook.dbdict.conn.select_one("PRAGMA synchronous") == (2,)  # FULL: https://sqlite.org/pragma.html
        assert hook.dbdict.conn.select_one("PRAGMA journal_mode") == ("delete",)
        assert lm.hook is hook


@pytest.mark.parametrize("every", [0.0, 1000.0], ids=["at once", "late"])
@pytest.mark.parametrize("ends", [None, KeyboardInterrupt, ValueError])
def test_answers_are_there_after_the_run_however_it_ends(ends, every, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "EVERY_S", every)
    path = tmp_path / "answers.db"
    lm = Model()

    def run():
        with kept_safely(lm):
            lm.set_cache_hook(Hook(path))
            for number in range(20):
                lm.hook.dbdict[str(number)] = number
            assert stored(path) == (20 if every == 0 else 0)
            assert lm.hook.dbdict["7"] == 7
            assert "20" not in lm.hook.dbdict
            if ends:
                raise ends("stop")

    if ends:
        with pytest.raises(ends, match="stop"):
            run()
    else:
        run()
    with SqliteDict(str(path)) as kept:
        assert dict(kept) == {str(number): number for number in range(20)}
    assert [file.name for file in tmp_path.iterdir()] == ["answers.db"], "no journal is left behind"


def test_writing_that_fails_is_said_and_does_not_hang(tmp_path):
    lm = Model()

    def run():
        with kept_safely(lm):
            lm.set_cache_hook(Hook(tmp_path / "answers.db"))
            lm.hook.dbdict.conn.execute("DROP TABLE unnamed")
            lm.hook.dbdict["1"] = 1
            lm.hook.dbdict.commit()

    with pytest.raises(sqlite3.Error, match="unnamed"):
        run()


def test_run_keeps_its_answers_so(door, answering, eight_rows, elsewhere, monkeypatch):
    seen = []
    own = cache._Kept.begin

    def begin(answers):
        seen.append(answers.filename)
        own(answers)

    monkeypatch.setattr(cache._Kept, "begin", begin)
    assert door("run", "--pretrained", answering, "--data_dir", eight_rows, "--limit", "2").code == 0
    assert len(seen) == 1
