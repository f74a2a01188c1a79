"""Scores by number of labels, against means worked out by hand; and which reported number a fine-tuned run is put beside."""

import re

import pytest
from test_leaderboard import manifest, save

from harness_ext.results import label_efficiency, leaderboard


def trained(model, samples, seed, correct, recipe=None):
    training = {"recipe": recipe, "optimiser_steps": 300, "collapsed": False}
    more = {"train_samples": samples, "seed": seed, "training": training, "key": f"{model}{samples}{seed}{recipe}"}
    return manifest(model, correct, **more)


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
    assert list(scores) == [("m + qwen", "sst2_01 on sst2/dev.tsv"), ("tfidf", "sst2_01 on sst2/dev.tsv")]
    head, _, first, second, _ = label_efficiency.markdown(scores)
    assert head == "| model | data | 16 | 64 | all |"
    assert first == r"| m + qwen | sst2_01 on sst2/dev.tsv | 56.2 (50.0-62.5, 2) |  | 87.5 |"
    assert second == r"| tfidf | sst2_01 on sst2/dev.tsv | 50.0 | 62.5 |  |"


def test_leaderboard_draws_them(tmp_path, pictures):
    save(tmp_path, *BOARD)
    _, files = leaderboard.write(tmp_path)
    assert [path.name for path in files[2:]] == ["label-efficiency.png", "label-efficiency.svg"]
    assert files[2].read_bytes().startswith(b"\x89PNG")
    assert "label-efficiency.svg" in files[0].read_text()


@pytest.mark.parametrize(
    ("recipe", "samples", "reported"),
    [  # from results/reported.csv: two batch sizes at 256 samples, one where all were used
        ("paper-deberta-b128", 256, 444),
        ("paper-deberta-b4", 256, 535),
        ("deberta", 256, None),
        ("paper-deberta-b128", "all", 826),
    ],
)
def test_deberta_is_put_beside_the_reported_run_of_its_batch_size(recipe, samples, reported):
    run = trained("microsoft/deberta-v3-base", samples, 0, 500, recipe)
    (row,) = leaderboard.rows([run], leaderboard.read_reported())
    assert row["reported"] == (None if reported is None else reported / 872)


def adapted(samples, seed, correct, *, weights="sha256:a", trained_on="d1", batch=16, evaluated="v1", **settings):
    training = {
        "recipe": "qwen",
        "base_version": weights,
        "data_fingerprint": trained_on,
        "settings": {"learning_rate": 0.001, "batch_size": min(batch, samples), **settings},
    }
    return manifest(
        "final",
        correct,
        adapter=f"a{samples}{seed}{weights}{trained_on}",
        train_samples=samples,
        seed=seed,
        training=training,
        data_fingerprint=evaluated,
        key_parts={"weights": weights},
    )


@pytest.mark.parametrize(
    "other",
    [{"weights": "sha256:b"}, {"trained_on": "d2"}, {"evaluated": "v2"}, {"learning_rate": 0.1}, {"batch": 8}],
    ids=["base", "training data", "evaluation data", "setting", "batch"],
)
def test_runs_of_one_name_and_different_content_are_no_seeds_of_each_other(other):
    board = [adapted(size, 0, 436) for size in (16, 64)] + [adapted(size, 1, 545, **other) for size in (16, 64)]
    scores = label_efficiency.by_samples(leaderboard.rows(board, []))
    names = [name for name, _ in scores]
    assert len(set(names)) == 2
    assert all(re.fullmatch(r"final \+ qwen \([0-9a-f]{6}\)", name) for name in names)
    assert sorted(found["64"] for found in scores.values()) == [[0.5], [0.625]]


@pytest.mark.parametrize("batch", [16, 128])  # 128 is cut down to the number of samples
def test_sizes_and_seeds_of_one_recipe_are_one_group_whatever_the_batch_was_cut_down_to(batch):
    board = [adapted(size, seed, 436, batch=batch) for size in (16, 64, 256, 1024) for seed in (0, 1)]
    ((name, _),) = scores = label_efficiency.by_samples(leaderboard.rows(board, []))
    assert name == "final + qwen"
    assert {size: len(found) for size, found in next(iter(scores.values())).items()} == {
        "16": 2,
        "64": 2,
        "256": 2,
        "1024": 2,
    }


def test_names_stay_in_their_cells_of_the_label_efficiency_table():
    board = [trained("a|b\n<i>_x_ `y` [z](u) *w*", samples, 0, 436) for samples in (16, 64)]
    *_, row, _ = label_efficiency.markdown(label_efficiency.by_samples(leaderboard.rows(board, [])))
    assert row.startswith(r"| a\|b\\n&lt;i&gt;\_x\_ \`y\` \[z\](u) \*w\* | sst2_01 on")


def test_names_that_matplotlib_would_read_as_formulas_are_drawn_as_they_are(tmp_path, pictures):
    board = [trained(name, samples, 0, 436) for name in ("_hidden", "a $x_{$ b") for samples in (16, 64)]
    svg = label_efficiency.draw(label_efficiency.by_samples(leaderboard.rows(board, [])), tmp_path / "x")[1].read_text()
    assert "<!-- a \\$x_{\\$ b -->" in svg or "a $x_{$ b" in svg
    assert "_hidden" in svg
