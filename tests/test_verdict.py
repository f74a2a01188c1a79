"""What the rows held out say of an adapter, from numbers alone."""

import pytest

from finetune.verdict import remarks, verdict
from harness_ext.results.render import verdict_of_training


def history(*losses):
    """Scored every ten steps, at the start too, training losses between."""
    return [{"step": 10 * n, "held_out_loss": loss, "held_out_score": 0.5 + n / 100} for n, loss in enumerate(losses)] + [
        {"step": 5, "train_loss": 0.1}
    ]


def made(kind, *losses, score=0.5):
    final = {"loss": losses[-1], "score": score}
    steps = 10 * (len(losses) - 1)
    return verdict(kind, history(*losses), final) | {"held_out": final, "optimiser_steps": steps, "collapsed": False}


def test_before_and_lowest_are_read_from_the_history():
    found = made("generative", 0.9, 0.66, 0.7, 1.05)
    assert found["held_out_before"] == {"loss": 0.9, "score": 0.5}
    assert found["held_out_lowest"] == {"step": 10, "loss": 0.66, "score": 0.51}


@pytest.mark.parametrize(
    ("kind", "losses", "score", "marked"),
    [
        ("generative", (0.9, 0.5), 0.5, False),
        ("generative", (0.9, 0.5, 0.91), 0.5, True),
        ("generative", (0.9, 0.5, 0.91), 0.51, False),  # surer of its mistakes, of which there are fewer
        ("generative", (0.9, 0.9), 0.5, True),  # it has learned nothing
        ("classifier", (0.69, 0.9), 0.5, False),  # its head at step 0 is new: there is no base that answers
    ],
)
def test_adapter_is_marked_whose_loss_and_score_are_no_better_than_its_bases(kind, losses, score, marked):
    found = made(kind, *losses, score=score)
    assert found["no_better_than_base"] is marked
    assert any("no better than its base: held-out log-loss" in said for said in remarks("a", found)) == marked
    assert verdict_of_training(found) == ("no better" if marked else None)


def test_history_without_a_first_score_marks_nothing():
    found = verdict("generative", history(0.9, 0.5)[1:], {"loss": 2.0, "score": 0.5})
    assert (found["held_out_before"], found["no_better_than_base"]) == (None, False)


def test_collapse_is_shown_before_the_other_mark():
    assert verdict_of_training({"collapsed": True, "no_better_than_base": True}) == "YES"


@pytest.mark.parametrize(
    ("losses", "step"),
    [
        ((1.2, 0.66, 0.8, 1.05), 10),
        ((1.2, 0.9, 0.66, 0.7), None),  # within what chance explains
        ((1.2, 0.9, 0.66), None),  # the last
        ((0.6, 0.9, 1.0), None),  # none of its steps was better than no training, which is said instead
    ],
)
def test_step_of_the_lowest_loss_is_named_where_the_end_is_notably_worse(losses, step):
    said = [line for line in remarks("a--64", made("generative", *losses)) if "lowest" in line]
    expected = (
        f"a--64: held-out loss was lowest at step {step} (0.66; 1.05 at the end): it overfits; try --set steps={step}."
    )
    assert said == ([expected] if step else [])
