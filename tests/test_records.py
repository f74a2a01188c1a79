import multiprocessing
import signal

import pytest

from harness_ext.errors import UserError
from harness_ext.keys import hash_of
from harness_ext.results import records


def test_run_key_depends_on_every_part_and_on_no_order():
    parts = {"model": "m", "limit": None, "seeds": [0, 1]}
    assert hash_of(parts) == hash_of(dict(reversed(parts.items())))
    assert len({hash_of(parts | change) for change in ({}, {"limit": 1}, {"seeds": [1, 0]}, {"new": None})}) == 4


@pytest.mark.parametrize(
    ("model", "start"),
    [("Qwen/Qwen2.5-0.5B", "Qwen__Qwen2.5-0.5B--t--"), ("../x", "__x--t--"), ("a b;$(c)`d`", "a_b___c__d_--t--")],
)
def test_run_name_is_a_plain_folder_name(model, start):
    name = records.run_name(model, "t", "0123456789abcdef")
    assert name == f"{start}01234567"


def test_run_name_of_a_very_long_model_name_still_is_a_file_name():
    assert len(records.run_name("x" * 500, "sst2_01", "0" * 64)) < 120


@pytest.mark.parametrize(
    "name", ["模" * 80, "é" * 300, "a/" * 200, "..", "", "x y", "[red] 模型", "\udcff" * 9, "😀" * 70, "." * 300, "a\nb"]
)
def test_name_of_any_kind_fits_a_file_system_with_its_key(name, tmp_path):
    folder = records.place(tmp_path, records.run_label(name, name), "0" * 64)
    assert len(folder.name.encode()) <= 255
    assert folder.parent == tmp_path
    (tmp_path / f"{folder.name[:-8]}{'0' * 64}").mkdir()  # the longest that it may get
    assert len(list(tmp_path.iterdir())) == 1


def test_name_is_cut_between_letters_and_keeps_its_end():
    assert records.plain("模" * 80, 100) == "模" * 33
    assert records.plain("a" * 200 + "-end", 100).endswith("a-end")
    assert records.plain("a/b c[d]", 80) == "a__b_c_d_"


def test_keys_of_the_same_first_digits_get_folders_of_their_own(tmp_path):
    keys = ["1" * 8 + "2" * 56, "1" * 8 + "3" * 56, "1" * 8 + "3" * 8 + "4" * 48]
    places = []
    for key in keys:
        folder = records.place(tmp_path, "m--t", key)
        folder.mkdir()
        records.write_json(folder / "run.json", {"schema": records.SCHEMA, "key": key})
        places.append(folder)
    assert [folder.name for folder in places] == ["m--t--11111111", "m--t--1111111133333333", f"m--t--{keys[2]}"]
    assert [records.place(tmp_path, "m--t", key) for key in keys] == places
    assert records.is_complete(places[0], keys[0])
    assert not records.is_complete(places[0], keys[1])


def test_record_that_cannot_be_read_counts_as_finished_so_that_its_reader_says_so(tmp_path):
    (tmp_path / "run.json").write_text("{")
    assert records.is_complete(tmp_path, "1" * 64)


def test_workspace_keeps_a_second_process_out(tmp_path):
    second = records.workspace(tmp_path, "run")
    with records.workspace(tmp_path, "run"), pytest.raises(UserError, match="going on in another process"):
        second.__enter__()


def _hold(out, ready):
    with records.workspace(out, "run") as work:
        (work / "answers").write_text("so far")
        ready.set()
        signal.pause()


def test_workspace_of_a_killed_process_is_free_again_with_its_answers(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=_hold, args=(tmp_path, ready))
    process.start()
    assert ready.wait(30)
    process.kill()
    process.join()
    with records.workspace(tmp_path, "run") as work:
        assert (work / "answers").read_text() == "so far"


def test_publish_replaces_an_earlier_run_whole(tmp_path):
    target = records.run_folder(tmp_path, "run")
    for content in ("old", "new"):
        with records.workspace(tmp_path, "run") as work:
            (work / "finished").mkdir()
            (work / "finished" / content).touch()
            records.write_json(work / "finished" / "run.json", {"schema": records.SCHEMA})
            records.publish(work, work / "finished", target)
    assert {path.name for path in target.iterdir()} == {"new", "run.json"}
    assert not (tmp_path / "unfinished").exists()


def test_read_run_of_another_schema_is_an_error(tmp_path):
    records.write_json(tmp_path / "run.json", {"schema": 0})
    with pytest.raises(ValueError, match="schema"):
        records.read_run(tmp_path)
