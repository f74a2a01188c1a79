import csv
import io

import pytest
from rich.cells import cell_len

from harness_ext.model import presets
from harness_ext.results import render, reported
from harness_ext.results.leaderboard import rows
from harness_ext.results.names import settings_text
from harness_ext.results.records import SCHEMA, write_json
from harness_ext.results.render import as_csv
from harness_ext.results.reported import SST2_VALIDATION


def manifest(model="m", correct=700, n=872, *, task="sst2_01", missing=3, **more):
    counts = {"correct": correct, "positive": 1, "negative": 1, "not_following": {"other": missing}}
    return {
        "schema": SCHEMA,
        "key": f"{model}{task}{correct}{n}",
        "experiment": f"experiment of {model}",
        "curve": f"curve of {model}",
        "method": "prompted",
        "model": model,
        "adapter": None,
        "recipe": (more.get("training") or {}).get("recipe"),
        "quantisation": None,
        "settings": None,
        "not_default": {},
        "train_samples": 0,
        "seed": None,
        "task": task,
        "data": "sst2/dev.tsv",
        "data_fingerprint": SST2_VALIDATION,
        "n": n,
        "n_available": 872,
        "counts": {"lenient": counts, "strict": {**counts, "correct": correct - 10}},
        "docs_per_s": 12.345,
        **more,
    }


def save(out, *manifests):
    for number, content in enumerate(manifests):
        folder = out / "runs" / f"run{number}"
        folder.mkdir(parents=True)
        write_json(folder / "run.json", content)


def test_rows_are_sorted_by_score_and_carry_the_interval():
    board = rows([manifest("low", 436), manifest("high", 828)], [])
    assert [row["model"] for row in board] == ["high", "low"]
    assert board[1]["score"] == 0.5
    assert board[1]["low"] < 0.5 < board[1]["high"]
    assert board[0]["strict_score"] == 818 / 872
    assert board[0]["not_following"] == 3


def test_adapter_no_better_than_its_base_is_shown_where_collapse_is(capsys):
    held_out = {"held_out_before": {"loss": 0.9, "score": 0.5}, "held_out": {"loss": 0.9, "score": 0.5}}
    board = rows([manifest("a", 436, training={"collapsed": False, "kind": "generative", **held_out})], [])
    render.show(board)
    assert "no better" in capsys.readouterr().out
    assert ",False,True," in render.as_csv(board).splitlines()[1]


def test_rows_set_the_reported_score_beside_and_say_whether_it_lies_inside():
    scores = reported.scores()
    name = "Qwen/Qwen2.5-0.5B"
    near, far = (rows([manifest(name, correct)], scores)[0] for correct in (360, 500))
    assert near["reported"] == far["reported"] == 350 / 872
    assert (near["reported_inside"], far["reported_inside"]) == (True, False)


def test_rows_compare_only_the_same_question_on_the_same_data():
    scores = reported.scores()
    name = "Qwen/Qwen2.5-0.5B"
    for other in (
        manifest("someone/else"),
        manifest(name, task="sst2_01_choice"),
        manifest(name, data_fingerprint="of other sentences"),
        manifest(name, 80, 100),
    ):
        assert rows([other], scores)[0]["reported"] is None
    assert rows([manifest(name, adapter="a", train_samples=64)], scores)[0]["reported"] == 482 / 872


def test_reported_scores_are_those_of_the_presets():
    found = {(score.model, score.task, score.quantisation) for score in reported.scores()}
    assert found == {(preset.model, preset.task, preset.quantise) for preset in presets.load().values()}


def test_csv_has_fractions_and_a_flag_for_partial_runs():
    (row,) = csv.DictReader(io.StringIO(as_csv(rows([manifest("part", 8, 10)], []))))
    assert (row["score"], row["partial"], row["reported"]) == ("0.8", "True", "")


def test_rows_leave_out_runs_of_other_tasks():
    assert rows([manifest(counts={})], []) == []


ADAPTER = manifest(
    "org/a-model-of-some-renown-7B-Instruct",
    adapter="org__a-model-of-some-renown-7B-Instruct--64--s0--9ba9feee",
    train_samples=64,
    seed=0,
    missing=123,
    training={"recipe": "qwen", "optimiser_steps": 500, "collapsed": True},
)
CHINESE = manifest("模型" * 40, 600, missing=77)


@pytest.mark.parametrize("width", [60, 80, 120, 200, None])
def test_table_shows_what_matters_at_any_width(width, capsys):
    render.show(rows([ADAPTER, CHINESE], []), width=width)
    lines = capsys.readouterr().out.splitlines()
    head = " ".join(lines[:4])
    assert all(word in head for word in ("model", "adapter", "score", "interval", "following"))
    (ours,) = [line for line in lines if "9ba9feee" in line]  # on one line, its key at the end
    (other,) = [line for line in lines if "模" in line]
    assert ours.startswith("org/a-m")
    assert [part for part in ("80.28", "77.5-82.8", "123") if part not in ours.split()] == []
    assert [part for part in ("68.81", "65.7-71.8", "77") if part not in other.split()] == []
    assert max(map(cell_len, lines[:-1])) <= (width or 10_000)
    assert ours.count("org") == 1, "the base stands in the adapter's name too"


def test_table_in_a_pipe_is_whole(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    render.show(rows([ADAPTER, CHINESE], []))
    said = capsys.readouterr().out
    assert ADAPTER["model"] in said
    assert CHINESE["model"] in said
    assert all(word in said for word in ("strict", "docs/s", "steps", "recipe"))
    assert "column" not in said


@pytest.mark.parametrize("width", [60, 80, 120])
def test_table_says_how_many_columns_it_leaves_out(width, capsys):
    board = rows([ADAPTER, CHINESE], [])
    render.show(board, width=None)
    whole = len(next(line for line in capsys.readouterr().out.splitlines() if "9ba9feee" in line).split())
    render.show(board, width=width)
    *lines, last = capsys.readouterr().out.splitlines()
    left = whole - len(next(line for line in lines if "9ba9feee" in line).split())
    assert last == f"(+ {left} columns: make leaderboard, or leaderboard.csv)"


def test_near_ties_are_a_column_only_where_there_are_any(capsys):
    for ties, shown in ((None, False), (0, False), (7, True)):
        board = rows([manifest("a", near_ties=ties), manifest("b")], [])
        render.show(board)
        assert ("ties" in capsys.readouterr().out) == shown


def test_csv_gives_a_spreadsheet_no_formula():
    (row,) = csv.DictReader(io.StringIO(as_csv(rows([manifest("=HYPERLINK(0)")], []))))
    assert row["model"] == "'=HYPERLINK(0)"


def test_settings_are_a_column_only_where_something_was_asked_for(capsys):
    asked = {"shots": 4, "system": "You are a critic of films and of books.", "dtype": "float32", "chat_template": False}
    text = 'system "You are a critic of …" · float32 · no chat template'
    for not_default, shown in ((asked, True), ({}, False)):
        board = rows([manifest("a", not_default=not_default), manifest("b")], [])
        render.show(board)
        said = capsys.readouterr().out
        assert ("settings" in said) == (f"4 shots · {text}" in said) == shown
        assert [row["settings"] for row in csv.DictReader(io.StringIO(as_csv(board)))] == [f"4 shots · {text}" * shown, ""]


@pytest.mark.parametrize(
    ("not_default", "text"),
    [
        ({"shots": 1}, "1 shot"),
        ({"engine": "stock"}, "stock engine"),
        ({"think_budget": 99}, "think budget 99"),
        ({"chat template": True, "seed": [1, 2, 3, 4]}, "chat template · seed [1, 2, 3, 4]"),
        ({"{x}": "{y}"}, "{x} {y}"),
        ({"until": "x" * 99}, f"until {'x' * 20}…"),
        ({}, ""),
    ],
)
def test_settings_are_said_in_words(not_default, text):
    assert settings_text(not_default) == text


def test_settings_are_among_the_last_to_go_and_are_cut_in_a_narrow_terminal(capsys):
    board = rows([ADAPTER | {"not_default": {"shots": 4, "system": "x" * 99, "dtype": "float32"}}, CHINESE], [])
    for width, shown in ((100, True), (60, False)):
        render.show(board, width=width)
        lines = capsys.readouterr().out.splitlines()
        assert any("4 shots" in line and "float32" in line for line in lines) == shown
        assert max(map(cell_len, lines)) <= width
