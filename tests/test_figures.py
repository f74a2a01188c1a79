"""Pictures: what is drawn is what was computed, names are text, labels do not overlap, the same twice is the same file."""

import re
from dataclasses import replace
from itertools import combinations, islice
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.text import Text
from test_standings import run

from harness_ext.evidence import break_even
from harness_ext.report import figures
from harness_ext.results import label_figure, pictures, prices
from harness_ext.results.contest import contests
from harness_ext.results.standings import entries

pytestmark = pytest.mark.usefixtures("pictures")
SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "_a $x_{$ <script>alert(1)<b> & \u202eabc \x1b[31m"


def trained(model, samples, correct, recipe="qwen", **more):
    """Runs of a model that was trained on so many labels, a seed for each score in percent."""
    made = {"recipe": recipe, "method": "lora", "train_samples": samples, "training": {"kind": "generative"}, "curve": model}
    made |= {"experiment": f"{model} {recipe} {samples}"}
    return [run(each, model=model, seed=seed, **{**made, **more}) for seed, each in enumerate(correct)]


def with_margins(each, margins):
    """The same run, which says 1 where the margin is above 0."""
    labels = (np.asarray(margins) > 0).astype(int)
    return replace(each, answers=replace(each.answers, margins=np.asarray(margins, float), labels=labels))


BOARD = [
    run(70, model="prompted"),
    run(60, model="prompted", task="sst2_01_words_choice", experiment="words"),
    *trained("trained", 16, (60, 62, 64)),
    *trained("trained", 64, (80, 82, 84)),
    *trained("trained", "all", (85,)),
    *trained("once", 16, (55, 57), "encoder"),
]


def chosen(board):
    (contest,) = contests(entries(board))
    found = label_figure.choose(contest)
    assert found
    return found


def drawn(board):
    """Draw, and return the figure's only axis."""
    with pictures.style():
        (axis,) = label_figure.draw(chosen(board)).axes
    return axis


def on_page(board):
    found = figures.label_efficiency(entries(board))
    assert found
    return found


def texts(svg):
    return [each.text for each in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def marks(axis, marker):
    """What is marked so: x, y and whether it is hollow."""
    lines = [line for line in axis.get_lines() if line.get_marker() == marker]
    return [(x, y, line.get_markerfacecolor() == "none") for line in lines for x, y in line.get_xydata()]


def test_means_are_drawn_at_true_distances_and_hollow_without_an_interval():
    axis = drawn(BOARD)
    assert sorted(marks(axis, "o")) == [(4, 0.62, False), (6, 0.82, False), (8.6, 0.85, True)]
    assert marks(axis, "s") == [(4, pytest.approx(0.56), True)]
    assert [(tick, label.get_text()) for tick, label in zip(axis.get_xticks(), axis.get_xticklabels(), strict=True)] == [
        (4, "16"), (6, "64"), (8.6, "all")
    ]  # fmt: skip
    lines = [line.get_xydata().tolist() for line in axis.get_lines() if line.get_color() == pictures.COLOURS[0]]
    assert [[4, 0.62], [6, 0.82]] in lines  # "all" is not joined: its distance is not drawn to scale


def test_bands_are_the_intervals_that_were_computed():
    found = {(entry.record["model"], entry.samples): entry for entry in entries(BOARD)}
    bands = [each.get_paths()[0].vertices for each in drawn(BOARD).collections]
    of_trained = {(x, round(y, 9)) for x, y in bands[0]}
    for samples, x in ((16, 4), (64, 6)):
        assert {(x, round(end, 9)) for end in found["trained", samples].interval or ()} <= of_trained
    asked = next(entry for entry in entries(BOARD) if entry.score.mean == 0.7)
    assert len(bands) == 2  # none for two seeds; of two ways of asking one model the better
    assert (bands[1][:, 1].min(), bands[1][:, 1].max()) == asked.interval


def test_majority_is_that_of_the_data():
    board = [replace(each, answers=replace(each.answers, gold=(np.arange(100) < 80).astype(np.int8))) for each in BOARD]
    (line,) = [line for line in drawn(board).get_lines() if line.get_linestyle() == ":" and set(line.get_ydata()) == {0.8}]
    assert line.get_xdata() == [0, 1]  # from edge to edge


def test_break_even_is_marked_where_the_line_meets_the_prompted_score():
    axis, picture = drawn(BOARD), chosen(BOARD)
    _, where = picture.crossing
    ((x, y, _),) = [each for each in marks(axis, "D") if each[1] == 0.7]
    assert (x, y) == (pytest.approx(4 + 2 * (0.70 - 0.62) / (0.82 - 0.62)), 0.7)  # linear in log n
    (bar,) = [line for line in axis.get_lines() if line.get_linewidth() == 3]
    ends = [where.mean_low.labels, where.mean_high.labels]
    assert bar.get_xdata() == pytest.approx(np.log2(ends))
    tables = [
        np.stack([each.answers.correct for each in trained("x", 0, scores)]) for scores in ((60, 62, 64), (80, 82, 84))
    ]
    assert where == break_even.break_even([16, 64], tables, run(70).answers.correct[None])


def test_without_a_crossing_none_is_marked_and_without_training_nothing_is_drawn(tmp_path):
    assert "D" not in {line.get_marker() for line in drawn([*BOARD[2:]]).get_lines()}
    assert label_figure.write(entries(BOARD[:2]), tmp_path / "x") == []
    assert figures.label_efficiency(entries(BOARD[:2])) is None
    assert figures.others([]) == []


def test_best_of_each_model_and_method_is_drawn_and_what_is_left_out_is_named():
    board = [*BOARD, *trained("trained", 16, (50, 51, 52), "other", curve="second"), run(20, model="poor")]
    picture = chosen(board)
    assert [curve.name for curve in picture.curves] == ["trained + LoRA qwen", "once + LoRA encoder"]
    assert picture.left_out == ["trained + LoRA other", "poor"]
    said = label_figure.alternative(picture)
    assert "trained + LoRA qwen: 62.0% with 16, 82.0% with 64, 85.0% with all" in said
    assert "prompted without labels (digits written): 70.0%" in said
    assert "commoner answer: 50.0%" in said
    assert "Not drawn: trained + LoRA other, poor" in said


def test_curves_of_one_name_are_told_apart_by_settings_or_else_by_a_hash():
    board = trained("m", 16, (60, 61, 62), curve="0123456789")
    board += trained("m", 16, (50, 51, 52), curve="abcdef0123", experiment="b", not_default={"dtype": "float32"})
    board += trained("m", 16, (40, 41, 42), curve="fedcba9876", experiment="c", not_default={"dtype": "float32"})
    (contest,) = contests(entries(board))
    assert [curve.name for curve in contest.curves] == [
        "m + LoRA qwen", "m + LoRA qwen (float32) (abcdef)", "m + LoRA qwen (float32) (fedcba)"
    ]  # fmt: skip


def test_same_picture_is_the_same_file(tmp_path):
    first, second = (label_figure.write(entries(BOARD), tmp_path / name) for name in "ab")
    assert [path.suffix for path in first] == [".png", ".svg"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    (contest,) = contests(entries(measured()))
    assert figures.reliability(contest) == figures.reliability(contest)


def test_names_are_text_whatever_they_are(tmp_path):
    board = [run(70, model=HOSTILE), *trained(HOSTILE, 16, (60, 61, 62)), *trained(HOSTILE, 64, (80, 81, 82))]
    _, svg = label_figure.write(entries(board), tmp_path / "x")
    found = on_page(board)
    for text in (svg.read_text(), found.svg):
        root = ElementTree.fromstring(text)
        assert not list(root.iter(f"{SVG}script"))
        assert any("_a $x_{$" in (each or "") for each in texts(text))
        assert "\u202e" not in text
        assert "\x1b" not in text
    assert "\\x1b" in found.alternative


def overlaps(axis):
    """Pairs of labels that overlap, and those that reach beyond the axis."""
    renderer = axis.figure.canvas.get_renderer()
    axis.figure.draw_without_rendering()
    boxes = [(note.get_text(), Text.get_window_extent(note, renderer)) for note in axis.texts]
    beyond = [text for text, box in boxes if box.y0 < axis.bbox.y0 or box.y1 > axis.bbox.y1]
    return [(a, b) for (a, one), (b, other) in combinations(boxes, 2) if one.overlaps(other)], beyond


def test_labels_of_the_published_picture_do_not_overlap(published_runs):
    assert overlaps(drawn(published_runs)) == ([], [])


@pytest.mark.parametrize("spread", [0, 3])
def test_labels_of_lines_that_end_close_together_do_not_overlap(spread):
    board = [run(70, model="prompted"), run(71, model="asked"), run(69, model="told")]
    for number in range(8):
        for samples in (16, 64):
            scores = 70 + spread * number / 8 + np.arange(3)
            board += trained(f"a model with a long name {number}", samples, scores, curve=str(number))
    assert overlaps(drawn(board)) == ([], [])


def test_part_of_a_page_has_no_background_and_the_pages_ink():
    found = on_page(BOARD)
    assert pictures.INK not in found.svg
    assert "currentColor" in found.svg
    assert "#ffffff" not in found.svg.lower()
    root = ElementTree.fromstring(found.svg)
    assert root.get("role") == "img"
    title, description = root[0], root[1]
    assert (title.text, description.text) == (found.title, found.alternative)
    assert root.get("aria-labelledby") == f"{title.get('id')} {description.get('id')}"
    assert "width" not in root.attrib  # it fills its place


def measured(seed=0):
    """A board whose runs have margins, with noise, of two trained models and a prompted one."""
    rng = np.random.default_rng(seed)
    gold = np.arange(100) % 2

    def margins(strength):
        return strength * (2 * gold - 1) + rng.normal(size=100)

    board = [with_margins(run(model="prompted"), margins(0.3))]
    for model, strength in (("small", 0.6), ("large", 1.5)):
        made = (each for samples in (16, 64) for each in trained(model, samples, (1, 2, 3)))
        board += [with_margins(each, margins(strength)) for each in made]
    return board


def test_pictures_of_a_page_share_no_id_and_every_reference_is_in_its_own_picture():
    found = [on_page(measured()), *figures.others(entries(measured()))]
    assert len(found) == 4
    ids = [re.findall(r' id="([^"]+)"', each.svg) for each in found]
    assert len({each for own in ids for each in own}) == sum(map(len, ids))
    for each, own in zip(found, ids, strict=True):
        assert set(re.findall(r'(?:url\(|href=")#([\w-]+)', each.svg)) <= set(own)
        assert each.title
        assert each.caption
        assert each.alternative


def test_coverage_and_stages_say_what_a_count_by_hand_says():
    board = measured()
    _, coverage, stages = figures.others(entries(board))
    large = [each for each in board if each.record["model"] == "large"]
    best = max(({64: large[3:], 16: large[:3]}).values(), key=lambda some: sum(each.answers.correct.mean() for each in some))
    margins = np.concatenate([each.answers.margins for each in best])
    right = np.concatenate([each.answers.correct for each in best])
    surest = np.argsort(-np.abs(margins))[:150]
    assert f"{100 * right[surest].mean():.1f}% of the surest half, {100 * right.mean():.1f}% of all" in coverage.caption
    for model, place in (("large", "second"), ("small", "first")):
        asked = [each for each in board if (each.record["model"], each.record["train_samples"]) == (model, 64)]
        alone = np.mean([each.answers.correct.mean() for each in asked])
        assert f"the {place} alone {100 * alone:.1f}%" in stages.caption


def test_stages_have_a_price_where_both_models_have_one(tmp_path):
    path = tmp_path / "prices.yaml"
    path.write_text("currency: EUR\nmodels: {small: {in: 1.0, out: 0}, large: {in: 20.0, out: 0}}")
    board = [replace(each, record=each.record | {"tokens": {"in": 100 * each.record["n"], "out": 0}}) for each in measured()]
    *_, stages = figures.others(entries(board), prices.read(path))
    # 100 tokens a document, 100,000 for 1,000: a tenth of a million.
    assert "by the second alone 2, by the first alone 0.1." in stages.caption
    assert "EUR per 1,000 decisions" in texts(stages.svg)
    assert [each for each in texts(stages.svg) if each in ("0.1", "0.5", "0.9", "1.3", "1.7", "2.1")] == [
        "0.1", "0.5", "0.9", "1.3", "1.7", "2.1"
    ]  # fmt: skip
    path.write_text("currency: EUR\nmodels: {small: {in: 1.0, out: 0}}")
    *_, stages = figures.others(entries(board), prices.read(path))
    assert "EUR" not in stages.caption


def test_margins_of_a_calibrated_run_are_moved_as_it_moved_them():
    gold = np.arange(100) % 2
    shifted = with_margins(run(100, model="prompted", calibration={"slope": 1.0, "intercept": -5.0}), 4 + 2.0 * gold)
    assert shifted.answers.correct.sum() == 50  # as they are, all say 1
    shifted = replace(shifted, answers=replace(shifted.answers, labels=gold.astype(np.int8)))
    (_, coverage) = figures.others(entries([shifted]))
    assert "100.0% of all" in coverage.caption


def test_no_two_styles_are_alike_and_each_colour_stands_out_from_white_and_from_black():
    styles = list(islice(pictures.lines(), 120))
    assert len(set(styles)) == 120
    for colour in pictures.COLOURS:
        parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        luminance = np.dot(linear, (0.2126, 0.7152, 0.0722))
        assert 1.05 / (luminance + 0.05) > 2  # WCAG's contrast
        assert (luminance + 0.05) / 0.05 > 2
