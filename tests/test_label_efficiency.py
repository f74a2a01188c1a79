"""Scores by number of labels, against means worked out by hand; and which reported number a fine-tuned run is put beside."""

import re

import pytest
from builders import SENTENCES, tsv_folder
from test_leaderboard import manifest, save

from harness_ext.results import label_efficiency, leaderboard, reported
from harness_ext.results.experiments import experiment_of
from harness_ext.results.records import read_runs
from harness_ext.results.schema1 import upgrade
from harness_ext.results.write import write_leaderboard


def trained(model, samples, seed, correct, recipe=None):
    training = {"recipe": recipe, "optimiser_steps": 300, "collapsed": False}
    more = {"train_samples": samples, "seed": seed, "training": training, "key": f"{model}{samples}{seed}{recipe}"}
    return manifest(model, correct, **more, curve=f"{model} {recipe}")


BOARD = [
    trained("m", 16, 0, 436, "qwen"),  # 50.0%
    trained("m", 16, 1, 545, "qwen"),  # 62.5%
    trained("m", "all", 0, 763, "qwen"),  # 87.5%
    trained("tfidf", 64, 0, 545),
    trained("tfidf", 16, 0, 436),
    trained("once", 16, 0, 500, "qwen"),
    manifest("prompted", 800),
]


def test_scores_are_grouped_by_model_and_recipe_and_averaged_over_seeds():
    scores = label_efficiency.by_samples(leaderboard.rows(BOARD, []))
    assert list(scores) == [("m + LoRA qwen", "sst2_01 on sst2/dev.tsv"), ("tfidf", "sst2_01 on sst2/dev.tsv")]
    head, _, first, second, _ = label_efficiency.markdown(scores)
    assert head == "| model | data | 16 | 64 | all |"
    assert first == r"| m + LoRA qwen | sst2_01 on sst2/dev.tsv | 56.2 (50.0-62.5, 2) |  | 87.5 |"
    assert second == r"| tfidf | sst2_01 on sst2/dev.tsv | 50.0 | 62.5 |  |"


def test_leaderboard_draws_them(tmp_path, pictures):
    save(tmp_path, *BOARD)
    _, files = write_leaderboard(tmp_path)
    assert [path.name for path in files[2:]] == ["label-efficiency.png", "label-efficiency.svg"]
    assert files[2].read_bytes().startswith(b"\x89PNG")
    assert "label-efficiency.svg" in files[0].read_text()


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
    run = trained("microsoft/deberta-v3-base", samples, 0, 500, recipe)
    (row,) = leaderboard.rows([run], reported.scores())
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
    scores = label_efficiency.by_samples(leaderboard.rows(upgrade(board), []))
    names = [name for name, _ in scores]
    assert len(set(names)) == 2
    assert all(re.fullmatch(r"final \+ LoRA qwen \([0-9a-f]{6}\)", name) for name in names)
    assert sorted(found["64"] for found in scores.values()) == [[0.5], [0.625]]


@pytest.mark.parametrize("batch", [16, 128])  # 128 is cut down to the number of samples
def test_sizes_and_seeds_of_one_recipe_are_one_group_whatever_the_batch_was_cut_down_to(batch):
    board = [adapted(size, seed, 436, batch=batch) for size in (16, 64, 256, 1024) for seed in (0, 1)]
    ((name, _),) = scores = label_efficiency.by_samples(leaderboard.rows(upgrade(board), []))
    assert name == "final + LoRA qwen"
    assert {size: len(found) for size, found in next(iter(scores.values())).items()} == {
        "16": 2,
        "64": 2,
        "256": 2,
        "1024": 2,
    }


PARTS = {"weights": "sha256:w", "dtype": "bfloat16", "num_fewshot": 0, "prompts": "p", "adapter": None, "seeds": [0] * 4}
MADE = {"recipe": "qwen", "experiment": "e", "curve": "c"}


def asked(samples, seed, correct, *, adapter="a", not_default=None, training=MADE, **parts):
    """A record as it is written: its experiment follows from its key's parts."""
    key_parts = PARTS | {"seeds": [seed] * 4, "adapter": f"sha256:{seed}"} | parts
    training = training and training | {"experiment": f"{training['experiment']} {samples}"}
    experiment, curve = experiment_of(key_parts, training, samples, adapter)
    more = {"experiment": experiment, "curve": curve, "key_parts": key_parts, "not_default": not_default or {}}
    return manifest("m", correct, adapter=adapter, train_samples=samples, seed=seed, training=training, **more)


@pytest.mark.parametrize(
    ("other", "name"),
    [
        ({"dtype": "float32", "not_default": {"dtype": "float32"}}, r"m \+ LoRA qwen \(float32\)"),
        ({"num_fewshot": 4, "prompts": "q", "not_default": {"shots": 4}}, r"m \+ LoRA qwen \(4 shots\)"),
        ({"prompts": "q", "not_default": {"system": "Be brief."}}, r'm \+ LoRA qwen \(system "Be brief\."\)'),
        ({"adapter": "a/checkpoint-50"}, r"m \+ LoRA qwen \([0-9a-f]{6}\)"),
        ({"weights": "sha256:x"}, r"m \+ LoRA qwen \([0-9a-f]{6}\)"),
        ({"training": MADE | {"experiment": "f", "curve": "f"}}, r"m \+ LoRA qwen \([0-9a-f]{6}\)"),
        ({"training": None}, r"m"),  # an adapter from elsewhere: each is an experiment of its own
    ],
    ids=["dtype", "shots", "system message", "checkpoint", "base", "training", "foreign"],
)
def test_runs_of_other_settings_are_told_apart_by_name_and_never_averaged_as_seeds(other, name):
    board = [asked(size, seed, 436) for size in (16, 64) for seed in (0, 1)]
    board += [asked(size, 2, 545, **other) for size in (16, 64)]
    found = label_efficiency.by_samples(leaderboard.rows(board, []))
    assert sorted(each["64"] for each in found.values()) == [[0.5, 0.5], [0.625]]
    assert [each for (model, _), each in found.items() if re.fullmatch(name, model)]
    assert len(found) == len({model for model, _ in found}) == 2


def test_adapter_trained_twice_with_one_seed_is_one_seed():
    board = [asked(16, 0, 436), asked(64, 0, 436), asked(64, 0, 545, adapter="again"), asked(64, 1, 545)]
    (found,) = label_efficiency.by_samples(leaderboard.rows(board, [])).values()
    assert sorted(found["64"]) == [(0.5 + 0.625) / 2, 0.625]


def test_seeds_of_a_baseline_are_averaged_and_runs_of_another_system_message_are_not(door, elsewhere):
    tsv_folder(elsewhere / "data", train=[(f"{text} {n}", label) for n in range(3) for text, label in SENTENCES])
    for seed in (0, 1):
        for samples in (4, 8):
            run = ("run", "--model=tfidf", "--data_dir=data", f"--train_samples={samples}", f"--seed={seed}")
            assert door(*run).code == 0
    assert door(*run, "--system_instruction=Be brief.").code == 0
    board = leaderboard.rows(read_runs(elsewhere / "results"), [])
    assert len(board) == 5
    (found,) = label_efficiency.by_samples(board).values()
    assert {samples: len(scores) for samples, scores in found.items()} == {"4": 2, "8": 2}


def test_names_stay_in_their_cells_of_the_label_efficiency_table():
    board = [trained("a|b\n<i>_x_ `y` [z](u) *w*", samples, 0, 436) for samples in (16, 64)]
    *_, row, _ = label_efficiency.markdown(label_efficiency.by_samples(leaderboard.rows(board, [])))
    assert row.startswith(r"| a\|b\\n&lt;i&gt;\_x\_ \`y\` \[z\](u) \*w\* | sst2_01 on")


def test_names_that_matplotlib_would_read_as_formulas_are_drawn_as_they_are(tmp_path, pictures):
    board = [trained(name, samples, 0, 436) for name in ("_hidden", "a $x_{$ b") for samples in (16, 64)]
    svg = label_efficiency.draw(label_efficiency.by_samples(leaderboard.rows(board, [])), tmp_path / "x")[1].read_text()
    assert "<!-- a \\$x_{\\$ b -->" in svg or "a $x_{$ b" in svg
    assert "_hidden" in svg
