"""What is printed after training: names as they are, and commands that run as they are; and the curve's picture."""

import re
import shlex
import subprocess
import sys
import warnings

import pytest
from conftest import ROOT
from matplotlib.figure import Figure

import finetune.__main__
from finetune import curves, summary
from finetune.spec import read_spec
from harness_ext.results import pictures as style

MANIFEST = {
    "train_samples": 16, "seed": 0, "optimiser_steps": 300, "held_out": {"loss": 0.5, "score": 0.75}, "samples_per_s": 12.0,
    "collapsed": False,
}  # fmt: skip
NAMES = ["28 [red] 模型", "cost $5 or $6", "a_b^c", "_hidden", "\\frac{1}{2}", "x" * 200, "[/bold]", "a\nb"]
HISTORY = [{"step": 0, "held_out_loss": 0.7, "held_out_score": 0.5}, {"step": 5, "train_loss": 0.6}]


def spec_of(*argv):
    return read_spec(finetune.__main__.train_parser().parse_args(list(argv)))


def commands(folders, *argv):
    return [line.strip() for line in summary.next_steps(folders, spec_of(*argv))[1:]]


@pytest.mark.parametrize("name", ["28 [red] 模型", "[/bold]", "[link=x]y[/link]", ":smile:"])
def test_table_shows_a_name_as_it_is(name, capsys):
    summary.show(name, [MANIFEST])
    said = capsys.readouterr().out
    assert name in said
    assert "75.0" in said


def test_each_adapter_gets_a_command_with_what_it_was_made_with(monkeypatch):
    monkeypatch.chdir(ROOT)
    first, second = commands(
        ["out dir/adapters/a", "out dir/adapters/b"], "--data_dir=../my data", "--task=mine", "--output_path=out dir"
    )
    assert first == "make eval ADAPTER='out dir/adapters/a' TASK=mine DATA_DIR='../my data' OUT='out dir'"
    assert shlex.split(second)[2] == "ADAPTER=out dir/adapters/b"
    assert commands(["results/adapters/a"]) == ["make eval ADAPTER=results/adapters/a"]


@pytest.mark.parametrize("value", ["$HOME", "$(touch x)", "`x`", "it's", 'say "no"', "a b", "模型", "#1", "a;b"])
@pytest.mark.parametrize("inside", [True, False])
def test_command_hands_on_what_was_typed(value, inside, monkeypatch, tmp_path):
    """A shell reads it, and make or Python gets it: the program's arguments are the values."""
    monkeypatch.chdir(ROOT if inside else tmp_path)
    more = [f"--data_dir={value}", f"--output_path={value}", f"--include_path={value}", "--allow_pickle"]
    (line,) = commands([f"{value}/adapters/a"], *more)
    recorder = tmp_path / "recorder"
    recorder.write_text("#!/bin/sh\nprintf '%s\\0' \"$@\"\n")
    recorder.chmod(0o755)
    line = line.replace("make", str(recorder), 1) if inside else line.replace(shlex.quote(sys.executable), str(recorder), 1)
    words = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=True, cwd=tmp_path).stdout.split("\0")[
        :-1
    ]
    given = dict(word.removeprefix("--").split("=", 1) for word in words if "=" in word)
    names = ("ADAPTER", "DATA_DIR", "OUT") if inside else ("adapter", "data_dir", "output_path")
    assert [given[name] for name in names] == [f"{value}/adapters/a", value, value]
    assert shlex.split(given["ARGS" if inside else "args"]) == ["--include_path", value, "--allow_pickle"]


def test_command_for_others_shows_of_absolute_paths_only_the_end():
    spec = spec_of("--data_dir=/home/me/my data", "--include_path=/home/me/own tasks", "--allow_pickle")
    words = shlex.split(summary.portable_command("/home/me/results/adapters/a", spec))
    assert words[:5] == ["python", "-m", "harness_ext", "run", "--adapter=.../a"]
    assert words[5:] == ["--data_dir=.../my data", "--args=--include_path '.../own tasks' --allow_pickle"]


def test_many_adapters_are_scored_by_a_loop(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    folders = [f"my out/adapters/{n} x" for n in range(30)]
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
    said = summary.next_steps(folders, spec_of("--output_path=my out", "--data_dir=a b"))
    assert len(said) <= 10
    line = said[-1].replace(shlex.quote(sys.executable), "echo", 1).replace("-m harness_ext run", "", 1)
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    assert {each.split(" --data_dir=a b")[0].strip() for each in done.splitlines()} == {
        f"--adapter={each}/" for each in folders
    }


def drawn(runs, path):
    """Draw runs, and return the texts in the picture."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, svg = curves.draw(runs, path)
    return [text.strip() for text in re.findall(r"<text[^>]*>([^<]*)</text>", svg.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("name", NAMES)
def test_curve_of_any_name_is_drawn_with_the_name_as_it_is(name, tmp_path, monkeypatch, pictures):
    if name != NAMES[0]:  # whose letters the font lacks; the picture in pixels says nothing more of the others
        monkeypatch.setattr(Figure, "savefig", svg_alone(Figure.savefig))
    shown = style.label(name)
    assert shown.strip() in drawn([(name, HISTORY)], tmp_path / "one")
    assert len(shown) <= 73
    assert shown.strip() == (name if name.isprintable() and len(name) < 73 else shown.strip())


def test_curve_says_model_labels_and_seed_in_place_of_a_hash_unless_two_would_be_called_the_same(tmp_path, pictures):
    name = "HuggingFaceTB__SmolLM2-135M--{}--s3--0123abcd"
    texts = drawn([(name.format(1024), HISTORY)], tmp_path / "one")
    assert "HuggingFaceTB/SmolLM2-135M, 1,024 labels, seed 3" in texts
    assert {"loss", "score on rows held out", "optimiser steps"} <= set(texts)
    twice = [name.format("all"), name.format("all").replace("0123", "4567")]
    texts = drawn([(each, HISTORY) for each in (*twice, name.format(16))], tmp_path / "three")
    assert {*twice, "HuggingFaceTB/SmolLM2-135M, 16 labels, seed 3"} <= set(texts)


def svg_alone(savefig):
    return lambda self, file, **options: savefig(self, file, **options) if file.suffix == ".svg" else file.touch()


def test_curves_of_several_runs_name_each_as_it_is(tmp_path, pictures):
    texts = drawn([(name, HISTORY) for name in NAMES], tmp_path / "all")
    for name in NAMES:
        assert style.label(name).strip() in texts
