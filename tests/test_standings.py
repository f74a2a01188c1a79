"""The folded leaderboard: who is one entry, what it is called, and who is ranked with whom."""

import itertools

import numpy as np
import pytest
from test_leaderboard import manifest

from harness_ext.paths import ROOT
from harness_ext.results import versions
from harness_ext.results.runs import Answers, Run
from harness_ext.results.standings import Entry, entries

N = 100
_keys = itertools.count()


def counted(correct, positive, n=N, **kinds):
    return {"correct": correct, "positive": positive, "negative": n - positive, "not_following": kinds}


def run(correct=50, *, documents="abc", seed=None, experiment=None, n=N, **more):
    """A run of N documents that has the first of them right, or those of an array."""
    right = np.arange(n) < correct if np.isscalar(correct) else np.asarray(correct, bool)
    gold = np.arange(n) % 2
    labels = np.where(right, gold, 1 - gold)
    counts = {
        "correct": int(right.sum()),
        "positive": int(labels.sum()),
        "negative": int(n - labels.sum()),
        "not_following": {},
    }
    record = manifest(n=n, seed=seed, **{"model": "m", "n_available": N, "counts": {"lenient": counts}, **more})
    record |= {"key": f"{next(_keys):064}", "experiment": experiment or f"{record['model']} {record['train_samples']}"}
    names = tuple(f"{documents}{number}" for number in range(n))
    return Run(record, ROOT, Answers(names, gold, labels, np.full(n, np.nan), ("label",) * n, ("",) * n))


def without_outcomes(each: Run) -> Run:
    return Run(each.record, each.folder, None)


def by_name(*found: Run) -> dict[str, Entry]:
    return {entry.name: entry for entry in entries(found)}


def test_runs_that_differ_in_the_seed_are_one_entry_with_mean_and_interval():
    (entry,) = entries([run(right, seed=seed, train_samples=16) for seed, right in enumerate((50, 60, 70))])
    assert entry.score.mean == pytest.approx(0.6)
    assert entry.scores == [0.5, 0.6, 0.7]
    assert entry.interval is not None
    low, high = entry.interval
    assert low < 0.6 < high
    assert (entry.seeds, entry.samples, entry.rank) == (3, 16, (1, 1))


def test_seed_run_twice_counts_once_and_the_later_run_counts():
    found = [run(right, seed=0, train_samples=16, started=f"2026-01-0{day}") for day, right in ((2, 70), (1, 50))]
    (entry,) = entries([*found, run(60, seed=1, train_samples=16)])
    assert entry.scores == [0.7, 0.6]
    assert [each.record["started"] for each in entry.repeated] == ["2026-01-01"]


def test_fewer_than_three_seeds_have_neither_interval_nor_rank():
    one, two = entries([run(90, model="a", seed=0, train_samples=16), *(run(80, seed=s, train_samples=16) for s in (0, 1))])
    assert (one.interval, one.rank, one.unranked) == (None, None, "1 seed")
    assert (two.interval, two.rank, two.unranked) == (None, None, "2 seeds")


def test_prompted_model_has_no_seed_and_an_interval_of_its_one_run():
    (entry,) = entries([run(50)])
    assert (entry.seeds, entry.rank, entry.unranked) == (None, (1, 1), "")
    assert entry.interval == pytest.approx((0.4038, 0.5962), abs=1e-4)  # scipy's proportion_ci(method="wilson")


def test_ranks_tell_apart_what_the_documents_tell_apart_and_no_more():
    found = by_name(run(90, model="good"), run(89, model="nearly"), run(10, model="bad"))
    assert {name: entry.rank for name, entry in found.items()} == {"good": (1, 2), "nearly": (1, 2), "bad": (3, 3)}


@pytest.mark.parametrize(
    "other",
    [
        {"documents": "other rows "},
        {"data_fingerprint": "other"},
        {"train_samples": 16},
        {"n_available": 200},
        {"key_parts": {"task_version": 1}},
    ],
    ids=["documents", "data", "labels", "partial", "old task"],
)
def test_no_ranking_is_shared_with_other_data_labels_or_tasks(other):
    better = run(90, model="a", **other)
    assert by_name(run(10), better)["m"].rank == (1, 1)


def test_partial_and_older_runs_have_no_rank_and_say_so():
    partial, old = entries([run(90, n_available=200), run(10, key_parts={"task_version": 1}, experiment="x")])
    assert (partial.rank, partial.unranked, partial.name) == (None, "partial", "m, 100 of 200")
    assert (old.rank, old.unranked, old.name) == (None, "old task", "m, task version 1")


def test_models_trained_elsewhere_are_not_ranked_as_if_they_had_used_the_same_labels():
    (entry,) = entries([run(90, method="classifier", train_samples=0)])
    assert (entry.samples, entry.rank, entry.unranked) == (None, None, "labels ?")


def test_shipped_model_counts_as_trained_on_all_labels_unless_it_was_given_more():
    found = {
        entry.name: entry.samples for entry in entries([run(model="tiny"), run(model="tiny", train_samples=16, seed=0)])
    }
    assert found == {"tiny": "all", "tiny, 16 labels": 16}


def test_run_without_outcomes_keeps_its_score_and_gets_no_rank():
    found = by_name(run(90, model="a"), without_outcomes(run(50, model="b")))
    assert found["b"].score.mean == 0.5
    assert found["b"].interval == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert (found["b"].rank, found["b"].unranked, found["a"].rank) == (None, "no outcomes", (1, 1))


@pytest.mark.parametrize("right", [0, N])
def test_all_right_and_all_wrong_have_intervals_within_bounds(right):
    (alone,) = entries([run(right)])
    (seeds,) = entries([run(right, seed=seed, train_samples=16) for seed in range(3)])
    for entry in (alone, seeds):
        assert entry.interval is not None
        low, high = entry.interval
        assert low <= right / N <= high
        assert low < high


def test_no_discordant_document_is_a_tie():
    assert [entry.rank for entry in entries([run(50, model="a"), run(50, model="b")])] == [(1, 2), (1, 2)]


def test_run_of_no_documents_is_left_out():
    assert entries([run(0, n=0), without_outcomes(run(0, n=0, counts={}))]) == []


def test_collapsed_runs_stay_in_the_mean_and_are_counted():
    found = [run(right, seed=seed, train_samples=16) for seed, right in enumerate((90, 90))]
    found.append(run(50, seed=2, train_samples=16, counts={"lenient": counted(50, N)}))
    found.append(run(70, seed=3, train_samples=16, training={"collapsed": True}))
    (entry,) = entries(found)
    assert entry.collapsed == 2
    assert entry.score.mean == pytest.approx(0.75)


def test_majority_gives_one_answer_without_having_collapsed_and_has_no_seed():
    about = {"model": "majority", "method": "majority", "train_samples": "all", "seed": 0}
    (entry,) = entries([run(counts={"lenient": counted(50, N)}, **about)])
    assert (entry.collapsed, entry.seeds, entry.rank, entry.name) == (0, None, (1, 1), "majority")


def test_kinds_of_what_does_not_follow_are_means_over_runs():
    kinds = ({"word": 5, "empty": 1}, {"word": 10})
    found = [
        run(seed=seed, train_samples=16, counts={"lenient": counted(50, 40, **each)}) for seed, each in enumerate(kinds)
    ]
    (entry,) = entries(found)
    assert entry.not_following == {"word": 7.5, "empty": 0.5}


DRAWN = {"generation": {"do_sample": True}}


@pytest.mark.parametrize(
    ("parts", "seeds"),
    [
        (DRAWN | {"seeds": [0, 0, 7, 0]}, ("draw 7",)),
        ({"num_fewshot": 4, "seeds": [0, 0, 0, 7]}, ("draw 7",)),
        ({"calibration": "batch", "seeds": [7, 0, 0, 0]}, ("draw 7",)),
        ({"seeds": [7, 7, 7, 7]}, None),
    ],
    ids=["drawn tokens", "lm-eval's examples", "unlabelled rows", "greedy"],
)
def test_seed_is_the_one_that_can_change_the_numbers(parts, seeds):
    (entry,) = entries([run(50, key_parts=parts)])
    assert entry.method is not None
    assert entry.method.seeds == seeds


@pytest.mark.parametrize(
    ("record", "name"),
    [
        ({}, "m"),
        ({"task": "sst2_01_words_choice"}, "m, words_choice"),
        ({"task": "someone's"}, "m, someone's"),
        ({"task": "own", "data": "tickets, old.csv, 4 of 8"}, "m, tickets, old.csv"),
        ({"task": "own_is_it_urgent_523d_words_choice", "data": "t.csv, 4 of 8"}, "m, t.csv, words_choice"),
        ({"task": "own_your_choice_00aa", "data": "t.csv, 4 of 8"}, "m, t.csv"),
        ({"quantisation": "nf4"}, "m (nf4)"),
        ({"method": "lora", "recipe": "qwen", "adapter": "x", "train_samples": 64}, "m + LoRA qwen, 64 labels"),
        (
            {"method": "lora", "recipe": "q", "adapter": "x/checkpoint-24", "train_samples": 16},
            "m + LoRA q at step 24, 16 labels",
        ),
        ({"method": "lora", "adapter": "someone", "train_samples": None}, "m + adapter someone"),
        ({"method": "probe", "train_samples": "all"}, "m + probe, all labels"),
        ({"method": "examples", "train_samples": 16}, "m + examples, 16 labels"),
        ({"method": "calibrated", "not_default": {"calibrated": "by batch"}}, "m + calibrated by batch"),
        (
            {"method": "calibrated", "not_default": {"calibrated": "by labels"}, "train_samples": 16},
            "m + calibrated, 16 labels",
        ),
        ({"model": "tfidf", "method": "tfidf", "train_samples": 64}, "tfidf, 64 labels"),
        ({"not_default": {"dtype": "float32"}}, "m"),
    ],
)
def test_name_says_model_method_labels_and_task(record, name):
    assert list(by_name(run(**record))) == [name]


def version(torch):
    return {"key_parts": {"versions": {"torch": torch}}}


def rank(number):
    return {"training": {"recipe_settings": {"rank": number, "steps": {"16": number}}}}


@pytest.mark.parametrize(
    ("one", "two", "expected"),
    [
        ({}, {"not_default": {"dtype": "float32"}}, {"m", "m (float32)"}),
        ({"settings": {"device": "cpu"}}, {"settings": {"device": "cuda"}}, {"m (cpu)", "m (cuda)"}),
        ({"data": "a/dev.tsv"}, {"data": "b/dev.tsv"}, {"m (a/dev.tsv)", "m (b/dev.tsv)"}),
        ({"task": "sst2_01_x"}, {"task": "x"}, {"m, x (sst2_01_x)", "m, x (x)"}),
        ({"task": "own_a_0001"}, {"task": "own_b_0002"}, {"m, sst2/dev.tsv (own_a_0001)", "m, sst2/dev.tsv (own_b_0002)"}),
        (version("2"), version("3"), {"m (torch 2)", "m (torch 3)"}),
        (rank(8), rank(16), {"m (rank 8)", "m (rank 16)"}),
        ({}, {}, {"m (first)", "m (second)"}),
    ],
    ids=["settings", "device", "data", "task", "question", "versions", "recipe", "hash"],
)
def test_what_would_be_called_alike_is_told_apart_by_what_differs(one, two, expected):
    found = entries([run(experiment="first", **one), run(experiment="second", **two)])
    assert {entry.name for entry in found} == expected


def test_name_stays_when_other_experiments_are_added():
    before = by_name(run(50))
    after = by_name(run(50), run(50, task="sst2_01_choice", experiment="x"), run(50, n_available=200, experiment="y"))
    assert set(before) <= set(after)


def test_published_names_are_unique_and_hold_no_hash_and_every_run_is_in_one_entry(published_entries):
    found = published_entries
    names = [entry.name for entry in found]
    assert len(set(names)) == len(names) > 50
    assert sum(len(entry.runs) for entry in found) == len(list(ROOT.glob("results/published/*/run.json")))
    assert not any(str(entry.record["experiment"])[:6] in entry.name for entry in found)
    assert "SmolLM2-135M-Instruct + LoRA qwen, 64 labels" in names


def test_order_of_runs_changes_nothing(published_runs):
    found = published_runs[::5]
    there, back = ([(entry.name, entry.rank, entry.scores) for entry in entries(order)] for order in (found, found[::-1]))
    assert there == back


def test_versions_of_today_are_those_of_the_yaml_files():
    found = versions.of_today()
    assert found["sst2_01"] == found["sst2_01_words_choice"] == 3  # by `include` of an `include`
    assert {path.stem for path in (ROOT / "tasks").glob("**/sst2*.yaml")} == set(found)


def test_task_that_is_not_ours_is_never_stale():
    assert not versions.is_stale({"task": "someone's", "key_parts": {"task_version": 0}})
    assert not versions.is_stale({"task": "sst2_01"})
    assert versions.is_stale({"task": "sst2_01", "key_parts": {"task_version": 2}})
