"""The leaderboard's files and its table in a terminal: what a reader of them sees."""

import csv
import errno
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from rich.cells import cell_len
from test_leaderboard import manifest, save
from test_standings import N, counted, run

from harness_ext.errors import UserError
from harness_ext.paths import ROOT
from harness_ext.results import board, label_efficiency, prices, reported, reported_tables, unlabelled, write
from harness_ext.results.records import write_json
from harness_ext.results.standings import entries
from harness_ext.results.write import write_leaderboard


def lines(found, priced=None):
    return board.markdown(entries(found), [], priced)


def table(text):
    """The cells of the first Markdown table, by column."""
    head, _, *rows = [re.split(r" (?<!\\)\| ", line[2:-2]) for line in text if line.startswith("|")]
    return [dict(zip(head, row, strict=False)) for row in rows]


def test_table_for_each_data_set_and_number_of_labels_whole_ones_first():
    found = [
        run(90, data="small", data_fingerprint="s", n=50, n_available=50, model="s"),
        run(90, experiment="old", key_parts={"task_version": 1}),
        run(90, experiment="part", n_available=200),
        *(run(80, train_samples=size, seed=0) for size in ("all", 16)),
        run(70, train_samples=None, model="foreign"),
        run(50),
    ]
    heads = [line for line in lines(found) if line.startswith("#")]
    assert heads == [
        "## sst2/dev.tsv, 100 documents",
        "### No labels",
        "### 16 labels",
        "### All labels",
        "### Number of labels unknown",
        "## small, 50 documents",
        "### No labels",
        "## Older task versions: sst2/dev.tsv, 100 documents",
        "### No labels",
        "## Part of sst2/dev.tsv only, 100 documents of 200 (LIMIT=): for trying out",
        "### No labels",
    ]


def test_data_of_one_name_and_size_and_other_content_is_told_apart():
    found = [run(50), run(50, data_fingerprint="abcdefgh", experiment="other")]
    assert sum("(data abcdef)" in line for line in lines(found)) == 1


def test_cells_of_an_entry():
    about = {"train_samples": 16, "docs_per_s": 20.0, "near_ties": 2, "peak_memory_bytes": {"process": 5e9, "gpu": 3e9}}
    kinds = {"word": 3, "empty": 1}
    found = [
        run(
            right,
            seed=seed,
            counts={"lenient": counted(right, N * (seed == 0), **kinds)},
            training={"train_s": 60.0},
            **about,
        )
        for seed, right in enumerate((50, 60, 70))
    ]
    for seed in (1, 2):
        found[seed].record["counts"]["lenient"]["positive"] = 40
    found[0].record["counts"]["lenient"]["negative"] = 0
    (cells,) = table(lines(found))
    low, high = entries(found)[0].interval or (0, 0)
    assert cells == {
        "group": "1",
        "name": "m, 16 labels",
        "score %": "60.00",
        "95% interval": f"{100 * low:.1f}-{100 * high:.1f}",
        "seeds": "3",
        "seed range": "50.0-70.0",
        "notes": "1 collapsed",
        "not following": "4",
        "kinds": "3 word, 1 empty",
        "near ties": "2",
        "docs/s": "20",
        "memory GB": "3.0",
        "training s": "60",
    }


def test_columns_without_anything_to_say_are_left_out():
    (cells,) = table(lines([run(50, docs_per_s=None)]))
    assert list(cells) == ["group", "name", "score %", "95% interval", "not following"]


def test_entry_without_a_rank_says_why():
    found = [run(50, model="a"), run(40, model="b", train_samples=0, seed=0)]
    assert {cells["name"]: cells["group"] for cells in table(lines(found))} == {"a": "1", "b": "1 seed"}


@pytest.mark.parametrize(
    ("value", "text"), [(None, ""), (8219.6, "8,220"), (17.04, "17"), (0.00123456, "0.00123"), (0.0, "0")]
)
def test_number_has_three_digits(value, text):
    assert board.number(value) == text


def test_prices_are_a_column_and_none_without_prices(tmp_path):
    (tmp_path / "prices.yaml").write_text(yaml.safe_dump({"currency": "EUR", "machines": {"H200": 3.6}}))
    found = [run(50, docs_per_s=10.0, hardware="NVIDIA H200"), run(40, model="b", docs_per_s=10.0, hardware="CPU")]
    priced = prices.read(tmp_path / "prices.yaml")
    assert {cells["name"]: cells["EUR per 1,000"] for cells in table(lines(found, priced))} == {"m": "0.1", "b": ""}
    assert "EUR per 1,000" not in "".join(lines(found))


def test_names_stay_in_their_cells():
    text = lines([run(50, model="a|b\n# <script>alert(1)</script>", data="x|y\n## z")])
    assert [line for line in text if "alert" in line] == [line for line in text if line.startswith("| 1 |")]
    assert "<script" not in "".join(text)
    assert not any(line.startswith("## z") for line in text)


LONG = [
    run(50, model="org/a-model-of-some-renown-7B-Instruct", docs_per_s=12.5, near_ties=7),
    run(90, model="模型" * 40, train_samples=16, seed=0, training={"collapsed": True}),
]


@pytest.mark.parametrize("width", [60, 80, 120, 200, None])
def test_terminal_never_loses_group_score_interval_seeds_and_what_does_not_follow(width, capsys):
    board.show(entries(LONG), [], None, "in a file", width)
    said = capsys.readouterr().out.splitlines()
    head = " ".join(said[:6])
    assert all(word in head for word in ("group", "name", "score", "interval", "seeds", "following"))
    (prompted,) = [line for line in said if "org/" in line]
    (trained,) = [line for line in said if "模" in line]
    assert {"50.00", "40.4-59.6", "1", "0"} <= set(prompted.split())
    assert width == 60 or "org/a-model-of-some-renown-7B-Instruct" in prompted
    assert "1 seed" in trained
    assert "90.00" in trained
    assert max(map(cell_len, said)) <= (width or 10_000)


def test_terminal_in_a_pipe_is_whole(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    board.show(entries(LONG), [], None, "in a file")
    said = capsys.readouterr().out
    assert "模型" * 40 in said
    assert "column" not in said


# Asked without a label


def asked(task, correct, **more):
    return run(correct, task=task, experiment=f"{task} {more}", **more)


def test_ways_of_asking_stand_beside_each_other_with_the_format_tax():
    batch = {"method": "calibrated", "not_default": {"calibrated": "by batch"}, "key_parts": {"calibration": "batch"}}
    found = [
        asked("sst2_01", 10, counts={"lenient": counted(10, 40, word=30)}),
        asked("sst2_01_choice", 55, margins={"auroc": 0.4, "best_score": 0.5}),
        asked("sst2_01_words", 20),
        asked("sst2_01_words_choice", 70, margins={"auroc": 0.8, "best_score": 0.75}),
        *(asked("sst2_01_words_choice", 74 + seed, **batch, seed=seed) for seed in range(3)),
    ]
    for each in found[-3:]:
        each.record["experiment"] = "batch"
    (cells,) = table(unlabelled.markdown(entries(found)))
    tax = cells.pop("format tax")
    assert cells == {
        "model": "m",
        "question": "sst2_01",
        "written": "10.00 (30)",
        "chosen": "55.00",
        "words written": "20.00 (0)",
        "words chosen": "70.00",
        "by context": "",
        "by batch": "75.00",
        "AUROC": "0.800",
        "best boundary": "75.00",
    }
    difference, low, high = map(float, re.findall(r"[-+]?\d+\.\d", tax))
    assert difference == 60.0  # 60 of 100 documents by the one alone, none by the other
    assert low < 60 < high


def test_wordings_settings_and_labels_are_not_mixed():
    found = [
        asked("sst2_01", 10),
        asked("sst2_01_choice", 20, settings={"dtype": "float32"}),  # not as the first was asked
        asked("sst2_01_swapped_choice", 30),
        asked("sst2_01_words_choice", 40, train_samples=16, seed=0),
        asked("sst2_01_words_choice", 50, n_available=200),
    ]
    assert unlabelled.markdown(entries(found)) == []


def test_data_sets_are_not_mixed_and_named_where_there_are_several():
    first = {"data_fingerprint": "a", "data": "tickets.csv, 100 of 200"}
    second = {"data_fingerprint": "b", "data": "mails.csv, 100 of 300"}
    found = [asked("own", 10, **first), asked("own_choice", 20, **first)]
    (cells,) = table(unlabelled.markdown(entries([*found, asked("own_words", 30, **second)])))
    assert (cells["question"], cells["words written"]) == ("own", "")
    both = table(unlabelled.markdown(entries([*found, asked("own", 30, **second), asked("own_words", 40, **second)])))
    assert [cells["question"] for cells in both] == ["own, tickets.csv, 100 of 200", "own, mails.csv, 100 of 300"]


def test_format_tax_of_the_published_runs_is_the_difference_of_their_scores(published_entries):
    found = table(unlabelled.markdown(published_entries))
    taxes = [cells for cells in found if cells["format tax"]]
    assert len(taxes) >= 2
    for cells in taxes:
        difference = float(cells["words chosen"]) - float(cells["written"].split()[0])
        assert float(cells["format tax"].split()[0]) == pytest.approx(difference, abs=0.06)


# Score by number of labels


def test_score_by_number_of_labels_has_a_row_for_each_method_and_for_models_without_labels():
    curve = {"model": "t", "curve": "c", "method": "tfidf"}
    found = [run(40 + 10 * seed, train_samples=16, seed=seed, **curve) for seed in range(3)]
    found += [run(80, train_samples="all", seed=0, **curve), run(70, model="prompted")]
    free, trained = table(label_efficiency.markdown(entries(found)))
    assert free["no labels"].startswith("70.0 (60.4-78.1)")  # Wilson's, as scipy has it
    assert re.fullmatch(r"50\.0 \(\d+\.\d-\d+\.\d, 3 seeds\)", trained["16"])
    assert trained["all"] == "80.0 (1 seed)"


# Reported


def test_reported_scores_have_wilson_intervals_and_one_ranking():
    found = table(reported_tables.alone())
    assert len(found) == len(reported.table()) == 19
    assert found[0]["correct"] == "829"
    assert found[0]["95% interval"] == "93.4-96.3"  # statsmodels' proportion_confint(829, 872, method="wilson")
    best = {cells["model"]: cells["group"] for cells in found[:2]}
    assert set(best.values()) == {"1-3"}, "829 and 826 of 872 are a tie"
    assert found[-1]["group"] == "19"


def test_reproduced_score_stands_beside_the_reported_one():
    name = "Qwen/Qwen2.5-0.5B"
    found = [run(360, n=872, n_available=872, model=name), run(50, model=name, task="sst2_01_choice")]
    (cells,) = table(reported_tables.beside(entries(found)))
    assert (cells["name"], cells["reported %"], cells["reproduced %"]) == (name, "40.14", "41.28")
    assert reported_tables.beside(entries([run(50)])) == []


# Files


def publish(out, *found, documents=None):
    """Write runs with their outcomes."""
    for number, each in enumerate(found):
        folder = out / "runs" / f"run{number}"
        folder.mkdir(parents=True)
        write_json(folder / "run.json", each.record)
        answers = each.answers
        rows = zip(documents or answers.documents, answers.gold, answers.labels, strict=True)
        text = "".join(f"{n},{name},{gold},{label},label,\n" for n, (name, gold, label) in enumerate(rows))
        (folder / "outcomes.csv").write_text(f"doc,hash,gold,lenient,kind,margin\n{text}")


def test_files_hold_every_run_and_every_entry(tmp_path, pictures):
    found = [run(right, seed=seed, train_samples=16, curve="c") for seed, right in enumerate((50, 60, 70))]
    publish(tmp_path, *found, run(90, model="p"))
    _, files, said = write_leaderboard(tmp_path)
    assert [path.name for path in files[:3]] == ["leaderboard.md", "leaderboard.csv", "leaderboard.json"]
    rows = list(csv.DictReader(files[1].open()))
    assert [(row["entry"], row["seed"], row["score"]) for row in rows] == [
        ("p", "", "0.9"), ("m, 16 labels", "2", "0.7"), ("m, 16 labels", "1", "0.6"), ("m, 16 labels", "0", "0.5"),
    ]  # fmt: skip
    first, second = json.loads(files[2].read_text())["entries"]
    assert (first["name"], first["group"], first["labels"], first["seeds"]) == ("p", [1, 1], 0, None)
    assert [each["score"] for each in second["runs"]] == [0.5, 0.6, 0.7]
    assert second["runs"][0]["key"] == found[0].record["key"]
    assert said == "4 runs in 2 entries."


def test_same_runs_in_another_order_leave_the_same_files(tmp_path, pictures):
    found = [run(right, seed=seed, train_samples=16, curve="c") for seed, right in enumerate((50, 50, 70))]
    found += [run(50, model=name) for name in ("b", "a")]
    texts = []
    for number, order in enumerate((found, found[::-1])):
        publish(tmp_path / str(number), *order)
        files = write_leaderboard(tmp_path / str(number))[1]
        texts.append([path.read_bytes() for path in files])
    assert texts[0] == texts[1]


def test_json_rounds_what_the_last_digit_of_a_library_could_change():
    (entry,) = write.as_json(entries([run(1, n=3, n_available=3)]), None)["entries"]
    assert entry["score"] == 0.333333
    assert math.isclose(entry["low"], 0.0614919, abs_tol=1e-6)


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"schema": 99}, "not a run record of schema 1 or 2"),
        ([], "not a run record"),
        ({"schema": 2}, "no run record, its key is 'None'"),
        (manifest(n="872"), "its n is '872'"),
        (manifest(correct=900), "900 of 872 are correct"),
        (manifest(n=900), "700 of 900 are correct"),
        (manifest(counts={"lenient": 7}), "its counts are"),
        (manifest(counts={"lenient": {"correct": 7}}), "its counts are"),
        (manifest() | {"not_default": ["x"]}, "its not_default is \"['x']\""),
        (manifest() | {"training": "lora"}, "its training is 'lora'"),
        (manifest() | {"docs_per_s": "fast"}, "its docs_per_s is 'fast'"),
        (manifest() | {"method": 3}, "its method is '3'"),
    ],
    ids=["newer", "list", "half", "text for a number", "too many right", "too many asked", "no counts", "half counts",
         "list for an object", "text for an object", "text for a speed", "number for a name"],
)  # fmt: skip
def test_record_that_is_none_of_a_run_is_named_left_out_and_counted(record, said, tmp_path, capsys):
    save(tmp_path, manifest("good"), record)
    found, _, counted = write_leaderboard(tmp_path)
    assert [entry.name for entry in found] == ["good"]
    error = capsys.readouterr().err
    assert f"Left out {tmp_path / 'runs' / 'run1' / 'run.json'}: " in error
    assert said in error
    assert counted == "1 run in 1 entry, 1 left out as said above."


def test_full_disk_is_one_line_and_leaves_what_was_there(tmp_path, monkeypatch):
    save(tmp_path, manifest("good"), manifest("other"))
    write_leaderboard(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert len(before) == 3

    def full(path, *args, **kwargs):
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(UserError, match="No space left on device"):
        write_leaderboard(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before  # and nothing half written


def test_copy_of_a_run_is_named_left_out_and_counted(tmp_path, capsys):
    save(tmp_path, manifest("good"), manifest("good"))
    assert write_leaderboard(tmp_path)[2] == "1 run in 1 entry, 1 left out as said above."
    assert "run1/run.json: the same run as run0" in capsys.readouterr().err


def test_own_run_replaces_a_published_one_of_the_same_key(tmp_path):
    save(tmp_path, manifest("m", docs_per_s=2.0))
    (tmp_path / "published" / "run0").mkdir(parents=True)
    write_json(tmp_path / "published" / "run0" / "run.json", manifest("m", docs_per_s=1.0))
    (entry,), _, said = write_leaderboard(tmp_path)
    assert entry.record["docs_per_s"] == 2.0
    assert said == "1 run in 1 entry."


def test_damaged_outcomes_leave_the_run_out_and_the_others_in(tmp_path, capsys):
    publish(tmp_path, run(50), run(60, model="b"))
    (tmp_path / "runs" / "run1" / "outcomes.csv").write_text("doc,hash\n0")
    found, _, said = write_leaderboard(tmp_path)
    assert [entry.name for entry in found] == ["m"]
    assert "run1/outcomes.csv" in capsys.readouterr().err
    assert said == "1 run in 1 entry, 1 left out as said above."


def test_repeated_seeds_and_other_tasks_are_counted(tmp_path):
    found = [run(50, seed=0, train_samples=16, started=day) for day in ("2026-01-01", "2026-01-02")]
    publish(tmp_path, *found, run(50, model="other", counts={}))
    assert write_leaderboard(tmp_path)[2] == "1 run in 1 entry, 1 with the seed of a later one, 1 of other tasks."
    rows = list(csv.DictReader((tmp_path / "leaderboard.csv").open()))
    assert [row["counted"] for row in rows] == ["False", "True"]


def test_no_run_at_all_is_the_users_mistake(tmp_path):
    with pytest.raises(UserError, match="No complete run under"):
        write_leaderboard(tmp_path)


def test_command_prints_tables_and_reads_prices(door, elsewhere):
    publish(elsewhere / "results", run(50, docs_per_s=10.0, hardware="NVIDIA H200"))
    (elsewhere / "mine.yaml").write_text("currency: EUR\nmachines: {H200: 3.6}\n")
    said = door("leaderboard", "--prices=mine.yaml")
    assert said.code == 0
    assert "EUR" in said.stdout
    assert "1 run in 1 entry. Written: results/leaderboard.md" in said.stderr
    (elsewhere / "prices.yaml").write_text("currency: EUR\nmachines: {H200: -1}\n")
    for flags, line in (((), "the price of 'H200' is -1"), (("--prices=absent.yaml",), "No prices in 'absent.yaml'")):
        refused = door("leaderboard", *flags)
        assert refused.code == 2
        assert line in refused.stderr


def test_committed_leaderboard_is_made_of_the_published_runs(published_entries):
    results = ROOT / "results"
    text = (results / "leaderboard.md").read_text(encoding="utf-8")
    for entry in published_entries:
        cells = [line.split(" | ") for line in text.splitlines() if f" | {entry.name} | " in line]
        assert f"{100 * entry.score.mean:.2f}" in {line[2] for line in cells}
    rows = list(csv.DictReader((results / "leaderboard.csv").open(encoding="utf-8")))
    keys = {run.record["key"] for entry in published_entries for run in entry.runs}
    assert keys <= {row["key"] for row in rows}  # whoever has made runs of their own has these here too


def test_reader_who_leaves_early_is_no_error(tmp_path):
    command = [sys.executable, "-m", "harness_ext", "leaderboard", "-o", str(tmp_path)]
    publish(tmp_path, *(run(50, model="m" * 400 + str(number)) for number in range(200)))  # more than a pipe holds
    for lines in (0, 1):
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
            assert process.stdout
            assert process.stderr
            for _ in range(lines):
                process.stdout.readline()
            process.stdout.close()
            said = process.stderr.read()
        assert process.returncode == 0, said
        assert "Traceback" not in said
        assert "200 runs" in said
