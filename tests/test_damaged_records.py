"""Records that someone else's program wrote, or changed: left out by name, or harmless to everything made of them."""

import copy
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness_ext.paths import ROOT
from harness_ext.report import collect
from harness_ext.report.find import Results
from harness_ext.report.matrix import matrices
from harness_ext.results import board, contest, fields, runs, write
from harness_ext.results.standings import entries

PUBLISHED = ROOT / "results" / "published"
TRAINED, CALIBRATED = (
    next(folder for folder in sorted(PUBLISHED.glob(name)) if "gpu" in (folder / "run.json").read_text())
    for name in ("SmolLM2*--lora-16-s0--*", "SmolLM2*--calibrated--sst2_01_words_choice--*")
)
NAMES = ("calibration", "counts", "data", "curve", "docs_per_s", "key_parts", "margins", "n", "near_ties", "not_default",
         "peak_memory_bytes", "prompt", "seed", "settings", "started", "tokens", "train_samples", "training")  # fmt: skip
ODD = [None, 3, -1, 0, 10**300, True, "x", "\ud800", [], {}, [1], {"x": {"y": 1}}, float("nan"), float("inf"), 1e300]


def record_of(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text())


def places(found: dict, *before: str) -> list[tuple[str, ...]]:
    """Name every field at any depth."""
    named = [((*before, name), value) for name, value in found.items()]
    return [
        place for place, value in named for place in (place, *(places(value, *place) if isinstance(value, dict) else ()))
    ]


def changed(record: dict, place: tuple[str, ...], value: object) -> dict:
    record = inside = copy.deepcopy(record)
    for name in place[:-1]:
        inside = inside[name]
    inside[place[-1]] = value
    return record


def make_all(found: list[runs.Run]) -> None:
    """Make everything of a leaderboard but its pictures."""
    of_them = entries(found)
    write.markdown(of_them, None, has_picture=False)
    json.dumps(write.as_json(of_them, None), allow_nan=False)
    board.show(of_them, [], None, more="")
    json.dumps(collect.details(of_them, {}, Path("nowhere")), allow_nan=False).encode()
    matrices(of_them)
    contest.contests(of_them)


@settings(deadline=None, max_examples=70)
@given(
    folder=st.sampled_from([TRAINED, CALIBRATED]),
    place=st.sampled_from([place for place in places(record_of(TRAINED) | record_of(CALIBRATED)) if place[0] in NAMES]),
    odd=st.sampled_from(ODD),
)
def test_odd_field_is_refused_or_does_no_harm(folder, place, odd):
    record = record_of(folder)
    if place not in places(record):
        return
    record = changed(record, place, odd)
    try:
        json.dumps(record, ensure_ascii=False).encode()  # as in reading
        fields.check(record)
        run = runs.read(folder, record)
    except ValueError:
        return
    make_all([run, runs.read(TRAINED, record_of(TRAINED))][: 1 + (folder == CALIBRATED)])


@pytest.mark.parametrize(
    ("place", "odd"),
    [
        (("training", "held_out"), 3),
        (("training", "held_out"), {"loss": 1.0}),
        (("training", "recipe_settings"), "x"),
        (("counts", "lenient", "positive"), -1),
        (("counts", "lenient", "not_following"), {"word": "many"}),
        (("near_ties",), -1),
        (("docs_per_s",), float("nan")),
        (("docs_per_s",), float("inf")),
        (("n",), True),
        (("n_available",), 10**400),
        (("seed",), True),
        (("seed",), 1e300),
        (("seed",), "0"),
        (("train_samples",), -1),
        (("train_samples",), "x"),
        (("peak_memory_bytes", "gpu"), "all"),
        (("key_parts", "versions"), 3),
        (("key_parts", "seeds"), [1]),
    ],
)
def test_field_that_would_be_computed_with_is_named(place, odd):
    with pytest.raises(ValueError, match=rf"no run record, .*({place[-1]}|word)"):
        fields.check(changed(record_of(TRAINED), place, odd))


@pytest.mark.parametrize("step", [10**400, "x", None, [1], float("nan")])
def test_odd_history_of_training_is_not_drawn_and_the_rest_is(step, tmp_path):
    run = runs.read(TRAINED, record_of(TRAINED))
    folder = tmp_path / "adapters" / run.record["adapter"]
    folder.mkdir(parents=True)
    (folder / "history.json").write_text(json.dumps({"history": [{"step": step, "train_loss": 0.5}]}))
    content = collect.details(entries([run]), {}, tmp_path)
    json.dumps(content, allow_nan=False)  # a page cannot read NaN
    assert content["runs"][0]["loss"] in (None, [{"train_loss": 0.5}])


def test_every_published_record_is_one():
    for path in PUBLISHED.glob("*/run.json"):
        fields.check(json.loads(path.read_text()))


def test_half_a_character_is_named_and_a_whole_one_is_read(tmp_path, door):
    for name, model in (("half", "m\ud800"), ("whole", "m😀")):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        (folder / "run.json").write_text(json.dumps(record_of(TRAINED) | {"model": model}))  # as its escape
    said = door("leaderboard", "-o", tmp_path)
    assert (said.code, said.stderr.count("Left out")) == (0, 1)
    assert f"Left out {tmp_path / 'runs' / 'half' / 'run.json'}: " in said.stderr
    (entry,) = json.loads((tmp_path / "leaderboard.json").read_text())["entries"]
    assert entry["name"].startswith("m😀")


def lines_of(folder: Path) -> list[str]:
    return (folder / "outcomes.csv").read_text(encoding="utf-8").splitlines(keepends=True)


def publish(out: Path, lines: list[str], **record: object) -> Path:
    folder = out / "runs" / "one"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(record_of(TRAINED) | record))
    (folder / "outcomes.csv").write_text("".join(lines), encoding="utf-8")
    return folder


def test_documents_in_another_order_are_paired_by_number_and_not_by_position(tmp_path):
    head, *lines = lines_of(TRAINED)
    folder = publish(tmp_path, [head, *reversed(lines)], key="f" * 64, seed=1)
    (tmp_path / "runs" / "two").symlink_to(TRAINED)
    (entry,) = entries(runs.read_all(tmp_path))
    assert entry.method is not None
    assert (entry.method.correct[0] == entry.method.correct[1]).all()
    assert Results(tmp_path).find("A", str(folder)).logs[0].ids == tuple(map(str, range(872)))


def with_cell(line: str, column: int, cell: str) -> str:
    cells = line.split(",")
    return ",".join([*cells[:column], cell, *cells[column + 1 :]])


DAMAGED = {
    "one document less": (lambda head, lines: [head, *lines[:-1]], "of 871 documents are right in it, 4"),
    "a document twice": (lambda head, lines: [head, *lines[:-1], lines[0]], "a document stands in it twice"),
    "gold that is none": (lambda head, lines: [head, with_cell(lines[0], 2, "2"), *lines[1:]], "neither 0 nor 1"),
    "label that is none": (lambda head, lines: [head, with_cell(lines[0], 3, "-7"), *lines[1:]], "neither 0 nor 1"),
    "label of no kind": (lambda head, lines: [head, with_cell(lines[0], 3, ""), *lines[1:]], "not of the kinds"),
    "other labels": (
        lambda head, lines: [head, *(with_cell(each, 2, str(1 - int(each.split(",")[2]))) for each in lines)],
        "in the record",
    ),
    "number that is none": (lambda head, lines: [head, "x" + lines[0], *lines[1:]], "invalid literal"),
    "half a row": (lambda head, lines: [head, *lines[:-1], lines[-1][:30]], "row 873 is not whole"),
    "NUL": (lambda head, lines: [head, lines[0].replace("label", "la\0bel"), *lines[1:]], "not of the kinds"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_outcomes_that_are_not_the_records_are_named_and_left_out(damage, tmp_path, door):
    change, said = DAMAGED[damage]
    head, *lines = lines_of(TRAINED)
    folder = publish(tmp_path, change(head, lines))
    assert runs.read_all(tmp_path) == []
    assert said in door("show", "--run", folder).error
    assert said in door("leaderboard", "-o", tmp_path).stderr


def test_byte_order_mark_and_line_ends_of_another_system_change_nothing(tmp_path):
    publish(tmp_path, ["\ufeff", *(line.replace("\n", "\r\n") for line in lines_of(TRAINED))])
    (run,) = runs.read_all(tmp_path)
    assert run.answers is not None
    assert run.answers.documents == runs.read_answers(TRAINED / "outcomes.csv").documents


def test_folder_of_a_damaged_record_is_named_in_one_line(tmp_path, door):
    folder = publish(tmp_path, lines_of(TRAINED), key_parts=3)
    assert "no run record, its key_parts is '3'" in door("compare", "--a", folder, "--b", TRAINED).error
