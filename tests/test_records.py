import json
import multiprocessing
import signal

import pytest
from fakeresults import read_outcomes

from harness_ext.errors import UserError
from harness_ext.keys import hash_of
from harness_ext.paths import ROOT
from harness_ext.results import leaderboard, outcomes, records
from harness_ext.results.experiments import adapter_experiment, experiment_of, method_of


def test_run_key_depends_on_every_part_and_on_no_order():
    parts = {"model": "m", "limit": None, "seeds": [0, 1]}
    assert hash_of(parts) == hash_of(dict(reversed(parts.items())))
    assert len({hash_of(parts | change) for change in ({}, {"limit": 1}, {"seeds": [1, 0]}, {"new": None})}) == 4


@pytest.mark.parametrize(
    ("model", "start"),
    [("Qwen/Qwen2.5-0.5B", "Qwen__Qwen2.5-0.5B--t--"), ("../x", "__x--t--"), ("a b;$(c)`d`", "a_b___c__d_--t--")],
)
def test_name_of_a_run_is_a_plain_folder_name(model, start, tmp_path):
    folder = records.place(tmp_path, records.run_label(model, "t"), "0123456789abcdef" * 4)
    assert folder == tmp_path / f"{start}01234567"


def test_name_of_a_run_of_a_very_long_model_name_still_is_a_file_name(tmp_path):
    assert len(records.place(tmp_path, records.run_label("x" * 500, "sst2_01"), "0" * 64).name) < 120


@pytest.mark.parametrize(
    ("asked", "label"),
    [
        (("org/m", "sst2_01", "prompted", 0, None), "org__m--sst2_01"),
        (("org/m", "sst2_01", "classifier", 0, None), "org__m--sst2_01"),
        (("org/m", "sst2_01", "lora", 64, 0), "org__m--lora-64-s0--sst2_01"),
        (("org/m", "sst2_01", "lora", None, None), "org__m--lora--sst2_01"),
        (("org/m", "sst2_01", "examples", 0, None), "org__m--examples--sst2_01"),
        (("tfidf", "sst2_01", "tfidf", "all", 3), "tfidf-all-s3--sst2_01"),
        (("m", "t", "lora", "../" * 99, "x" * 99), f"m--{'x' * 36}--t"),  # what an adapter's own record says
    ],
)
def test_name_of_a_run_says_each_thing_once(asked, label):
    assert records.run_label(*asked) == label


@pytest.mark.parametrize(
    "name", ["模" * 80, "é" * 300, "a/" * 200, "..", "", "x y", "[red] 模型", "\udcff" * 9, "😀" * 70, "." * 300, "a\nb"]
)
def test_name_of_any_kind_fits_a_file_system_with_its_key(name, tmp_path):
    folder = records.place(tmp_path, records.run_label(name, name, "classifier-lora", name, 2**32 - 1), "0" * 64)
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


def test_folder_that_has_the_key_is_found_whatever_it_is_called(tmp_path):
    for name, key in (("m+m--64--s0--t", "1" * 64), ("m--lora-64-s0--t", "1" * 8 + "2" * 56)):
        (tmp_path / f"{name}--11111111").mkdir()
        records.write_json(tmp_path / f"{name}--11111111" / "run.json", {"schema": 1, "key": key})
    label = records.run_label("m", "t", "lora", 64, 0)
    assert records.place(tmp_path, label, "1" * 64).name == "m+m--64--s0--t--11111111"
    assert records.place(tmp_path, label, "1" * 8 + "3" * 56).name == f"{label}--{'1' * 8}{'3' * 8}"


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
    target = tmp_path / "runs" / "run"
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


PUBLISHED = sorted((ROOT / "results" / "published").glob("*/run.json"))


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.parent.name)
def test_published_run_reads_as_its_file_says(path):
    raw = json.loads(path.read_text(encoding="utf-8"))
    record = records.read_run(path.parent)
    same = raw.keys() - {"schema", "choices"}
    assert {name: record[name] for name in same} == {name: raw[name] for name in same}
    assert record["settings"] == raw.get("settings", raw.get("choices"))
    if (path.parent / outcomes.FILE).is_file():
        assert outcomes.counts(read_outcomes(path.parent / outcomes.FILE)) == raw["counts"]
    (row,) = leaderboard.rows([record], [])
    rule = "lenient" if "lenient" in raw["counts"] else "none"
    count = raw["counts"][rule]
    assert row["score"] == count["correct"] / raw["n"] == pytest.approx(raw["metrics"][rule]["acc"])
    assert row["not_following"] == raw["n"] - count["positive"] - count["negative"]
    assert row["not_following"] == pytest.approx(raw["metrics"][rule]["not_following"] * raw["n"])


def test_published_runs_are_found(tmp_path):
    (tmp_path / "published").symlink_to(ROOT / "results" / "published")  # beside it may lie runs of one's own
    assert len(PUBLISHED) >= 36
    assert len(records.read_runs(tmp_path)) == len(PUBLISHED)


OLD = {
    "schema": 1,
    "key": "k",
    "train_samples": 0,
    "training": None,
    "choices": {"dtype": "float32", "quantisation": "nf4", "reasons": {"device": "no GPU found"}},
    "key_parts": {"backend": "hf-answer", "adapter": None, "num_fewshot": 4, "model_args": {"engine": "stock"}},
}


@pytest.mark.parametrize(
    ("change", "method", "not_default"),
    [
        ({}, "examples", {"shots": 4, "dtype": "float32", "engine": "stock"}),
        ({"key_parts": {"backend": "tfidf"}, "choices": None}, "tfidf", {}),
        ({"key_parts": {"backend": "hf-classifier"}}, "classifier", {}),  # float32 is how these are run
        ({"key_parts": {"backend": "hf-classifier", "adapter": "sha256:a"}}, "lora", {}),
        (
            {"key_parts": {"task": "sst2_01_think", "generation": {"max_gen_toks": 99}}},
            "prompted",
            {"dtype": "float32", "think_budget": 99},
        ),
        ({"key_parts": {}, "choices": {"dtype": "bfloat16", "reasons": {"dtype": "as stored"}}}, "prompted", {}),
    ],
)
def test_record_of_schema_1_gets_the_fields_of_schema_2(change, method, not_default, tmp_path):
    records.write_json(tmp_path / "run.json", OLD | change)
    record = records.read_run(tmp_path)
    assert (record["schema"], record["method"], record["not_default"]) == (2, method, not_default)
    assert record["settings"] == (OLD | change)["choices"]
    assert "choices" not in record
    assert all(len(record[name]) == 64 for name in ("experiment", "curve"))


PARTS = {
    "task": "t", "prompts": "p", "num_fewshot": 0, "data": "d", "backend": "hf-answer", "weights": "sha256:w", "limit": None,
    "adapter": None, "dtype": "float32", "seeds": [0, 0, 0, 0], "train_rows": None, "versions": {"torch": "2"},
}  # fmt: skip
MADE = {"experiment": "e" * 64, "curve": "c" * 64}


def test_runs_that_differ_in_the_seed_alone_are_one_experiment():
    for training, first, other in (
        (None, {}, {"seeds": [1, 1, 1, 1]}),
        (None, {"train_rows": "a"}, {"seeds": [1, 1, 1, 1], "train_rows": "b"}),
        (MADE, {"adapter": "sha256:a"}, {"seeds": [1, 1, 1, 1], "adapter": "sha256:b"}),
    ):
        assert experiment_of(PARTS | first, training, 64, None) == experiment_of(PARTS | other, training, 64, None)


def test_runs_whose_examples_were_drawn_by_other_seeds_are_one_experiment():
    shots = PARTS | {"num_fewshot": 4, "system_instruction": None}
    first = experiment_of(shots, None, 0, None)
    assert experiment_of(shots | {"seeds": [1] * 4, "prompts": "q", "requests": "r"}, None, 0, None) == first
    for other in ({"num_fewshot": 8}, {"system_instruction": "Be brief."}, {"dtype": "bfloat16"}):
        assert experiment_of(shots | other, None, 0, None) != first


@pytest.mark.parametrize("part", [name for name in PARTS if name not in ("seeds", "train_rows", "adapter")])
@pytest.mark.parametrize("training", [None, MADE], ids=["no adapter", "an adapter"])
def test_runs_that_differ_in_anything_else_are_no_seeds_of_each_other(part, training):
    for one, other in zip(
        experiment_of(PARTS, training, 64, "a"), experiment_of(PARTS | {part: "another"}, training, 64, "a"), strict=True
    ):
        assert one != other


def test_number_of_labels_makes_another_experiment_of_the_same_curve():
    ours = [experiment_of(PARTS, None, samples, None) for samples in (16, "all")]
    adapters = [experiment_of(PARTS, MADE | {"experiment": each}, None, "a") for each in ("1" * 64, "2" * 64)]
    for first, second in (ours, adapters):
        assert first[0] != second[0]
        assert first[1] == second[1]


def test_training_and_checkpoint_tell_experiments_apart():
    foreign = [PARTS | {"adapter": version} for version in ("sha256:a", "sha256:b")]
    asked = [
        (PARTS, MADE, "a"), (PARTS, {"experiment": "f" * 64, "curve": "f" * 64}, "a"), (PARTS, MADE, "a/checkpoint-50"),
        (PARTS, MADE, "a/checkpoint-100"), (foreign[0], None, "a"), (foreign[1], None, "a"),
    ]  # fmt: skip
    found = [experiment_of(parts, training, 64, adapter) for parts, training, adapter in asked]
    assert len({experiment for experiment, _ in found}) == len({curve for _, curve in found}) == len(asked)


def test_adapters_of_one_recipe_are_one_curve():
    parts = {"weights": "w", "recipe": {"batch_size": 16}, "samples": "64", "seed": 0, "subset": "a", "texts": "b"}
    first = adapter_experiment(parts)
    assert adapter_experiment(parts | {"seed": 1, "subset": "c", "texts": "d"}) == first
    assert adapter_experiment(parts | {"samples": "16"})[1] == first[1]
    assert adapter_experiment(parts | {"samples": "16"})[0] != first[0]
    assert not {*adapter_experiment(parts | {"recipe": {"batch_size": 8}})} & {*first}


def test_method_says_how_a_model_is_made_to_answer():
    assert method_of({"backend": "hf-answer"}) == "prompted"
    assert method_of({"backend": "majority", "num_fewshot": 4}) == "majority"
    assert method_of({"backend": "hf-classifier", "adapter": "sha256:a"}) == "lora"
