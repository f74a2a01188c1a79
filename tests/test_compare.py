"""Two runs compared: the numbers, the sentence, and where they differ."""

import re
import subprocess
import sys

import numpy as np
import pytest
from builders import tsv_folder
from fakeresults import gold, sentence
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

from harness_ext.evidence.contrast import Method, contrast
from harness_ext.paths import ROOT
from harness_ext.report import compare, verdict
from harness_ext.report.logs import Log, Side

MARK = "\x1b[2J</td><script>|`*\u202e"


def pair(both: int, only_a: int, only_b: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    """Which documents either run has right, in an order that hides the counts."""
    a = np.repeat([1, 1, 0, 0], [both, only_a, only_b, neither])
    b = np.repeat([1, 0, 1, 0], [both, only_a, only_b, neither])
    order = np.random.default_rng(0).permutation(len(a))
    return a[order].astype(bool), b[order].astype(bool)


def write_csv(path, right):
    rows = [f"{n},{gold(n)},{gold(n) if each else 1 - gold(n)}" for n, each in enumerate(right)]
    path.write_text("\n".join(["id,gold,prediction", *rows]))
    return path


@pytest.fixture
def compared(door, tmp_path):
    """Compare two arrays of right and wrong through the command line, as tables."""

    def call(a, b, *argv):
        done = door("compare", "--a", write_csv(tmp_path / "a.csv", a), "--b", write_csv(tmp_path / "b.csv", b), *argv)
        assert done.code == 0, done.stderr
        return done.stdout

    return call


def numbers(text: str) -> list[str]:
    """The cells of the second table."""
    return text.split("p \n")[1].split("\n")[0].split()


def test_originals_829_against_826_of_872_is_a_tie(compared):
    said = compared(*pair(783, 46, 43, 0))
    gaps = range(1, 90, 2)  # by how many of 89 discordant documents one side can lead
    told = [gap for gap in gaps if 2 * binom.cdf((89 - gap) // 2, 89, 0.5) - binom.pmf((89 - gap) // 2, 89, 0.5) < 0.05]
    visible = f"{100 * told[0] / 872:.1f}"
    assert (
        "tie: 3 of 872 documents apart, 46 against 43; "
        f"a difference under {visible} points cannot be told on this test set.\n" in said
    )


@pytest.mark.parametrize("counts", [(600, 40, 20, 212), (700, 9, 1, 162), (10, 5, 5, 3)])
def test_counts_and_p_are_those_of_a_hand_made_pair(counts, compared):
    both, only_a, only_b, neither = counts
    cells = numbers(compared(*pair(*counts)))
    assert cells[:4] == [str(count) for count in counts]
    exact = mcnemar([[both, only_a], [only_b, neither]], exact=True).pvalue
    mid = min(1, exact - binom.pmf(min(only_a, only_b), only_a + only_b, 0.5)) if only_a != only_b else 1
    assert cells[-1] == f"{mid:.3f}"
    assert float(cells[4]) == pytest.approx(100 * (only_a - only_b) / sum(counts), abs=0.05)


def test_score_of_each_side_and_outputs_without_a_label_are_counted(results, door):
    results("a", [1, 1, 0, -1, -1, 1, 1, 1])
    results("b", [1] * 8)
    said = door("compare", "--a=a", "--b=b", "--output_path", results.out).stdout
    for line, right, missing in (("A a, 64 labels +62.50", 5, 2), ("B b, 64 labels +100.00", 8, 0)):
        low, high = proportion_confint(right, 8, method="wilson")
        assert re.search(rf"{line} +{100 * low:.1f}-{100 * high:.1f} +{missing} 8 ", said)


def test_clear_difference_names_the_better_one_with_its_interval(compared):
    assert "\nA is better by 11.5 points (95% interval " in compared(*pair(600, 120, 20, 132))
    assert "\nB is better by 11.5 points (95% interval " in compared(*pair(600, 20, 120, 132))
    assert "; 100 of 872 documents apart, 120 against 20)." in compared(*pair(600, 20, 120, 132))


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ((800, 0, 0, 72), "Each is no worse than the other within 2 points (90% interval)."),
        ((740, 30, 18, 84), "A is no worse than B within 2 points (90% interval)."),
        ((740, 18, 30, 84), "B is no worse than A within 2 points (90% interval)."),
        ((40, 0, 0, 10), ""),  # of 50 documents a difference of 5 points would not show
    ],
)
def test_tie_says_who_is_no_worse(counts, said, compared):
    tie = compared(*pair(*counts)).split("tie: ")[1].splitlines()
    assert [line for line in tie if "no worse" in line] == [said] * bool(said)


@pytest.mark.parametrize("right", [[True] * 20, [False] * 20])
def test_all_right_and_all_wrong_on_both_sides_are_a_tie(right, compared):
    assert "tie: 0 of 20 documents apart" in compared(np.array(right), np.array(right))


def seeds_of(results, model, shares, n=200, **more):
    for seed, share in enumerate(shares):
        results(model, np.random.default_rng(seed).permutation(np.arange(n) < share * n), seed=seed, **more)


def test_runs_that_gave_one_answer_to_everything_are_counted(door, tmp_path):
    lines = {"a": "111", "b": "100"}  # gold 1, 0, 0
    for name, said in lines.items():
        rows = [f"{n},{label},{each}" for n, (label, each) in enumerate(zip("100", said, strict=True))]
        (tmp_path / name).with_suffix(".csv").write_text("\n".join(["id,gold,prediction", *rows]))
    said = door("compare", "--a", tmp_path / "a.csv", "--b", tmp_path / "b.csv").stdout
    assert "A gave one answer to everything." in said
    assert "B gave" not in said


def test_experiment_is_compared_with_its_seeds(results, door):
    seeds_of(results, "trained", (0.8, 0.82, 0.78))
    results("prompted", np.arange(200) < 100)
    said = door("compare", "--a=prompted", "--b=trained", "--output_path", results.out, "--show=1").stdout
    assert re.search(r"B is better by 30.0 points \(95% interval 2\d.\d to 3\d.\d; 3 seeds\)\.", said)
    assert re.search(r"B trained, 64 labels +80.00 .* 3 +0 200", said)
    assert re.search(r"B is right far more often than A on \d+ of 200 documents \(1 shown\):", said)
    assert " 3 of 3 " in said


def test_seeds_that_only_one_has_are_left_out_of_all_numbers(results, door):
    seeds_of(results, "four", (0.8, 0.8, 0.8, 0.1))
    seeds_of(results, "three", (0.7, 0.7, 0.7))
    said = door("compare", "--a=four", "--b=three", "--output_path", results.out).stdout
    assert "Both have the seeds 0, 1, 2; others are left out." in said
    assert re.search(r"A four, 64 labels +80.00 ", said)
    assert numbers(said)[4] == "+10.0"


@pytest.mark.parametrize(
    ("seeds", "said"), [(1, "two single runs: A is right on 60 of 200 documents more (p < 0.001)"), (2, "too few seeds: ")]
)
def test_few_seeds_make_no_verdict(seeds, said, results, door):
    seeds_of(results, "trained", [0.8] * seeds)
    results("prompted", np.arange(200) < 100)
    found = door("compare", "--a=trained", "--b=prompted", "--output_path", results.out).stdout
    assert said in found
    assert "SEED=0,1,2" in found
    assert "better" not in found
    assert "tie" not in found
    assert re.search(r"A trained, 64 labels +80.00 +\d ", found), "no interval over seeds is claimed"


def test_two_best_of_the_largest_data_are_compared_and_named(results, door):
    results("small-data", [1] * 8)
    results("small-data-2", [1] * 8)
    results("good", np.arange(40) < 30)
    results("better", np.arange(40) < 35)
    results("worse", np.arange(40) < 20)
    results("partial", np.arange(40) < 40, n_available=80)
    said = door("compare", "--output_path", results.out).stdout
    assert said.startswith("The two best of the leaderboard:\n")
    assert re.search(r"A better, 64 labels 87.50", said)
    assert re.search(r"B good, 64 labels +75.00", said)


def test_nothing_to_compare_is_said(results, door):
    results("alone", [1, 0])
    assert "has no two runs on the same whole data set" in door("compare", "--output_path", results.out).error
    assert "has no two runs" in door("compare", "--output_path", results.out / "nowhere").error


def test_other_tasks_on_the_same_documents_are_compared_and_that_is_said(results, door):
    results("digits", np.arange(40) < 30)
    results("words", np.arange(40) < 30, task="sst2_01_words_choice")
    said = door("compare", "--a=digits", "--b=words", "--output_path", results.out).stdout
    assert "They were asked in different ways: A sst2_01, B sst2_01_words_choice." in said


def test_someones_log_is_compared_with_a_run_by_id_and_that_is_said(results, door, tmp_path):
    results("ours", np.arange(40) < 30)
    path = write_csv(tmp_path / "theirs.csv", np.arange(40) < 20)
    said = door("compare", "--a=ours", "--b", path, "--output_path", results.out).stdout
    assert numbers(said)[:4] == ["20", "10", "0", "10"]
    assert "Documents are paired by id" in said
    assert (
        "paired by id"
        not in door("compare", "--a=ours", "--b", results("other", [0] * 40), "--output_path", results.out).stdout
    )


def test_run_is_found_by_folder_key_name_of_the_folder_and_words(results, door):
    folder = results("some/model".replace("/", "__"), [1, 0, 1, 1])
    results("other", [1, 1, 0, 0])
    key = folder.name.rsplit("--", 1)[1]
    for name in (folder, folder / "run.json", key, key[:5], folder.name, "MODEL 64", "mod", "labels some"):
        done = door("show", "--run", name, "--output_path", results.out)
        assert done.code == 0, done.stderr
        assert "some__model" in done.stdout


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("labels", "may mean one, 64 labels; three, 64 labels; two, 64 labels. Give more words"),
        ("thre, 64", "no name on the leaderboard"),
        ("thre, 64 lables", "Near: three, 64 labels"),
        (f"{MARK} x", "no name on the leaderboard"),
        (" ", "A is empty"),
        ("missing.csv", "is no file, no folder or key of a run"),
    ],
)
def test_name_that_is_not_one_runs_is_answered_with_those_that_may_be_meant(name, said, results, door):
    for model in ("one", "two", "three"):
        results(model, [1, 0])
    assert said in door("compare", f"--a={name}", "--b=two", "--output_path", results.out).error


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--a=one"], "B is missing"),
        (["--b=one"], "A is missing"),
        (["--a=one", "--b=one, 64 labels"], "A and B are the same run"),
        (["--a=one", "--b=two", "--show=-1"], "--show '-1' is not a whole number"),
        (["--a=one", "--b=two", "--show=some"], "--show 'some' is not a whole number"),
        (["--a=one", "--b=two", "--data_dir=nowhere"], "Cannot read nowhere/dev.tsv"),
        (["--a=one", "--b=."], "is no run: it has no run.json"),
        (["--a=one", "--b=longer"], "2 are in both, 0 in A alone, 1 in B alone ('2')"),
    ],
)
def test_users_mistake_is_one_line(argv, said, results, door):
    for model, right in {"one": [1, 0], "two": [1, 1], "longer": [1, 1, 1]}.items():
        results(model, right)
    assert said in door("compare", *argv, "--output_path", results.out).error


def test_the_same_file_twice_is_refused(door, tmp_path):
    path = write_csv(tmp_path / "a.csv", [1, 0])
    assert "the same run" in door("compare", "--a", path, "--b", tmp_path / "." / "a.csv").error


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("outcomes.csv", "doc,hash\n"),
        ("run.json", "{}"),
        ("run.json", "{"),
        ("run.json", '{"schema": 2}'),
        ("outcomes.csv", None),
    ],
)
def test_damaged_run_is_named(file, text, results, door):
    folder = results("one", [1, 0])
    (folder / file).unlink()
    if text is not None:
        (folder / file).write_text(text)
    error = door("compare", "--a", folder, "--b", folder, "--output_path", results.out).error
    assert folder.name in error


def differing_rows(text: str) -> list[list[str]]:
    return [re.split(" {1,}", line.strip()) for line in text.splitlines() if re.match(r"\d+ ", line)]


def test_documents_on_which_they_differ_come_the_clearest_first(results, door):
    results("a", [1, 1, 0, 1, 0], margins=[-0.1, 0.1, 0.5, 3.0, 9.0])
    results("b", [0, 0, 1, 1, 0], margins=[0.1, 5.0, -0.5, 3.0, 9.0])
    said = door("compare", "--a=a", "--b=b", "--output_path", results.out).stdout
    first, second = said.split("B alone is right on 1 of 5 documents:")
    assert "A alone is right on 2 of 5 documents:" in first
    assert [row[0] for row in differing_rows(first.split("A alone")[1])] == ["1", "0"]
    assert differing_rows(second) == [["2", "0", "1", "0"]]
    assert "DATA_DIR=folder (with dev.tsv) shows the sentences." in second
    assert "alone" not in door("compare", "--a=a", "--b=b", "--output_path", results.out, "--show=0").stdout


def test_sentences_come_from_data_dir(results, door, tmp_path):
    results("a", [1, 0])
    results("b", [0, 0], responses=["neither", "1"])
    data = tsv_folder(tmp_path / "data", [(sentence(n), gold(n)) for n in range(2)])
    call = ("compare", "--a=a", "--b=b", "--output_path", results.out, "--data_dir")
    said = door(*call, data).stdout
    assert re.search(r"0 +the film number 0 +0 0 1", said)
    other = tsv_folder(tmp_path / "other", [("something else", 1)])
    assert "other/dev.tsv holds none of the documents" in door(*call, other).error


def test_more_than_ten_are_shown_where_all_are_asked_for(compared):
    a, b = pair(10, 15, 0, 5)
    assert len(differing_rows(compared(a, b).split("alone")[1])) == 10
    assert "A alone is right on 15 of 30 documents (10 shown):" in compared(a, b)
    assert len(differing_rows(compared(a, b, "--show=all").split("alone")[1])) == 15


def test_hostile_names_and_answers_are_text(results, door, tmp_path):
    a = results("m", [-1, 1], responses=[MARK * 20, "1"])
    path = tmp_path / "b\x1b[2J.csv"
    path.write_text(f'id,gold,prediction,x\n0,0,0,"{MARK}"\n1,1,{MARK},y\n', encoding="utf-8")
    said = door("compare", "--a", a, "--b", path).stdout
    assert "\x1b" not in said
    assert "\u202e" not in said
    assert r"\x1b[2J</td><script>" in said


tables = st.integers(1, 4).flatmap(
    lambda k: st.integers(1, 30).flatmap(
        lambda n: st.tuples(
            *[st.lists(st.lists(st.booleans(), min_size=n, max_size=n), min_size=k, max_size=k)] * 2, st.booleans()
        )
    )
)


def side(rows, seeds, reverse=False) -> Side:
    n = len(rows[0])
    logs = tuple(Log(tuple(map(str, range(n))), ("1",) * n, ("1",) * n, np.array(row)) for row in rows)
    return Side("x", logs, seeds)


def swapped(text: str) -> str:
    return text.translate(str.maketrans("AB", "BA"))


@settings(deadline=None, max_examples=60)
@given(tables)
def test_comparison_is_the_mirror_image_of_the_reverse(found):
    rows_a, rows_b, has_seeds = found
    seeds = tuple(range(len(rows_a))) if has_seeds or len(rows_a) > 1 else None
    a, b = side(rows_a, seeds), side(rows_b, seeds)
    there, back = contrast(a.method, b.method), contrast(b.method, a.method)
    said, reverse = (verdict.sentences(x.method, y.method, each) for x, y, each in ((a, b, there), (b, a, back)))
    assert [swapped(line) for line in reverse] == said
    both, only_a, only_b, neither = compare.counts(a.method, b.method)
    assert compare.counts(b.method, a.method) == [both, only_b, only_a, neither]
    assert compare.differing(b, a) == compare.differing(a, b)[::-1]
    assert both + only_a + only_b + neither == pytest.approx(len(rows_a[0]))


def test_mean_difference_over_seeds_is_the_difference_of_counts():
    a, b = Method(np.array([[1, 1, 0], [1, 0, 0]]), (0, 1)), Method(np.array([[0, 1, 1]]), None)
    assert compare.counts(a, b) == [0.5, 1, 1.5, 0]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_tables_fit_the_terminal(width, results, monkeypatch, capsys):
    from harness_ext.__main__ import main

    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    results("a-model-with-quite-a-long-name-of-its-own", [1, 0, 1])
    results("another-model-with-quite-a-long-name-of-its-own", [0, 0, 1], responses=["x" * 99] * 3)
    assert main(["compare", "--a=a-model", "--b=another", f"--output_path={results.out}"]) == 0
    said = re.sub(r"\x1b\[\d*m", "", capsys.readouterr().out)
    tables_alone = [line for line in said.splitlines() if not re.search(r"\.$|:$", line)]
    assert max(map(len, tables_alone)) <= width


def test_published_runs_are_compared_without_torch():
    code = (
        "import sys; from harness_ext.__main__ import main; main(['compare']);"
        "print(sorted({'torch', 'transformers', 'datasets', 'scipy.stats', 'lm_eval.api'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.endswith("[]\n"), done.stdout[-300:] + done.stderr
