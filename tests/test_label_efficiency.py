"""Which runs are seeds and sizes of one method, and which reported number a fine-tuned run is put beside."""

from pathlib import Path

import numpy as np
import pytest
from builders import SENTENCES, tsv_folder
from test_board import table
from test_leaderboard import manifest
from test_standings import run

from harness_ext.results import label_efficiency, leaderboard, reported
from harness_ext.results.experiments import experiment_of
from harness_ext.results.runs import Run, read_all
from harness_ext.results.schema1 import upgrade
from harness_ext.results.standings import entries


def folded(records):
    return entries([Run(record | {"key": f"{number:064}"}, Path(), None) for number, record in enumerate(records)])


@pytest.mark.parametrize(
    ("recipe", "samples", "expected"),
    [  # from results/reported.csv: two batch sizes at 256 samples, one where all were used
        ("paper-deberta-b128", 256, 444),
        ("paper-deberta-b4", 256, 535),
        ("deberta", 256, None),
        ("paper-deberta-b128", "all", 826),
    ],
)
def test_deberta_is_put_beside_the_reported_run_of_its_batch_size(recipe, samples, expected):
    about = {"train_samples": samples, "seed": 0, "training": {"recipe": recipe}}
    (row,) = leaderboard.rows([manifest("microsoft/deberta-v3-base", 500, **about)], reported.scores())
    assert row["reported"] == (None if expected is None else expected / 872)


def adapted(samples, seed, correct, *, weights="sha256:a", trained_on="d1", batch=16, evaluated="v1", **settings):
    """A record of schema 1: its batch is cut down to the number of samples, the recipe's is not known."""
    training = {
        "recipe": "qwen",
        "base_version": weights,
        "data_fingerprint": trained_on,
        "settings": {"learning_rate": 0.001, "batch_size": min(batch, samples), **settings},
    }
    return manifest(
        "final",
        correct,
        schema=1,
        adapter=f"a{samples}{seed}{weights}{trained_on}",
        train_samples=samples,
        seed=seed,
        training=training,
        data_fingerprint=evaluated,
        key_parts={"weights": weights, "data": evaluated, "adapter": f"sha256:{samples}{seed}{weights}{trained_on}"},
    )


@pytest.mark.parametrize(
    "other",
    [{"weights": "sha256:b"}, {"trained_on": "d2"}, {"evaluated": "v2"}, {"learning_rate": 0.1}, {"batch": 8}],
    ids=["base", "training data", "evaluation data", "setting", "batch"],
)
def test_runs_of_one_name_and_different_content_are_no_seeds_of_each_other(other):
    board = [adapted(size, 0, 436) for size in (16, 64)] + [adapted(size, 1, 545, **other) for size in (16, 64)]
    found = folded(upgrade(board))
    assert len({entry.name for entry in found}) == 4
    assert len({entry.record["curve"] for entry in found}) == 2
    assert sorted(entry.scores for entry in found if entry.samples == 64) == [[0.5], [0.625]]


@pytest.mark.parametrize("batch", [16, 128])  # 128 is cut down to the number of samples
def test_sizes_and_seeds_of_one_recipe_are_one_group_whatever_the_batch_was_cut_down_to(batch):
    board = [adapted(size, seed, 436, batch=batch) for size in (16, 64, 256, 1024) for seed in (0, 1)]
    found = folded(upgrade(board))
    assert len({entry.record["curve"] for entry in found}) == 1
    assert {entry.name: len(entry.runs) for entry in found} == {
        f"final + LoRA qwen, {size} labels": 2 for size in (16, 64, 256, 1024)
    }


PARTS = {"weights": "sha256:w", "dtype": "bfloat16", "num_fewshot": 0, "prompts": "p", "adapter": None, "seeds": [0] * 4}
MADE = {"recipe": "qwen", "experiment": "e", "curve": "c"}


def asked(samples, seed, correct, *, adapter="a", not_default=None, training=MADE, **parts):
    """A record as it is written: its experiment follows from its key's parts."""
    key_parts = PARTS | {"seeds": [seed] * 4, "adapter": f"sha256:{seed}"} | parts
    training = training and training | {"experiment": f"{training['experiment']} {samples}"}
    experiment, curve = experiment_of(key_parts, training, samples, adapter)
    more = {"experiment": experiment, "curve": curve, "key_parts": key_parts, "not_default": not_default or {}}
    return manifest(
        "m", correct, method="lora", adapter=adapter, train_samples=samples, seed=seed, training=training, **more
    )


@pytest.mark.parametrize(
    ("other", "name"),
    [
        ({"dtype": "float32", "not_default": {"dtype": "float32"}}, "m + LoRA qwen, 64 labels (float32)"),
        ({"num_fewshot": 4, "prompts": "q", "not_default": {"shots": 4}}, "m + LoRA qwen, 64 labels (4 shots)"),
        ({"prompts": "q", "not_default": {"system": "Hi."}}, 'm + LoRA qwen, 64 labels (system "Hi.")'),
        ({"adapter": "a/checkpoint-50"}, "m + LoRA qwen at step 50, 64 labels"),
        ({"training": None}, "m + adapter a, 64 labels"),  # made elsewhere: each is an experiment of its own
    ],
    ids=["dtype", "shots", "system message", "checkpoint", "foreign"],
)
def test_runs_of_other_settings_are_told_apart_by_name_and_never_averaged_as_seeds(other, name):
    found = folded([*(asked(64, seed, 436) for seed in (0, 1)), asked(64, 2, 545, **other)])
    assert {entry.name: entry.scores for entry in found} == {"m + LoRA qwen, 64 labels": [0.5, 0.5], name: [0.625]}


@pytest.mark.parametrize(
    "other",
    [{"weights": "sha256:x"}, {"training": MADE | {"experiment": "f", "curve": "f"}}],
    ids=["base", "training"],
)
def test_runs_of_other_weights_are_told_apart_by_hashes_as_a_last_resort(other):
    found = folded([*(asked(64, seed, 436) for seed in (0, 1)), asked(64, 2, 545, **other)])
    hashes = {str(entry.record["experiment"])[:6] for entry in found}
    assert {entry.name for entry in found} == {f"m + LoRA qwen, 64 labels ({each})" for each in hashes}


def test_seeds_of_a_baseline_are_averaged_and_runs_of_another_system_message_are_not(door, elsewhere):
    tsv_folder(elsewhere / "data", train=[(f"{text} {n}", label) for n in range(3) for text, label in SENTENCES])
    for seed in (0, 1):
        for samples in (4, 8):
            run = ("run", "--model=tfidf", "--data_dir=data", f"--train_samples={samples}", f"--seed={seed}")
            assert door(*run).code == 0
    assert door(*run, "--system_instruction=Be brief.").code == 0
    found = {entry.name: entry.seeds for entry in entries(read_all(elsewhere / "results"))}
    assert found == {"tfidf, 4 labels": 2, "tfidf, 8 labels": 2, 'tfidf, 8 labels (system "Be brief.")': 1}


def test_names_stay_in_their_cells_of_the_label_efficiency_table():
    (cells,) = table(
        label_efficiency.markdown(entries([run(50, model="a|b\n<i>_x_ `y` *w*", method="tfidf", train_samples=16, seed=0)]))
    )
    assert cells["method"] == r"a\|b\\n&lt;i&gt;\_x\_ \`y\` \*w\*"


def test_collapsed_runs_stand_beside_the_mean():
    always_one = np.arange(100) % 2 == 1  # right on the 1s alone
    about = {"method": "probe", "train_samples": 16, "experiment": "e", "curve": "c"}
    board = [run(60, seed=0, **about), run(always_one, seed=1, **about), run(62, seed=2, **about)]
    (row,) = table(label_efficiency.markdown(entries(board)))
    assert row["16"].startswith("57.3 (")
    assert row["16"].endswith(", 3 seeds, 1 collapsed)")
