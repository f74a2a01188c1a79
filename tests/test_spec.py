"""What a user asks is data: read from flags or keywords alike, written as JSON and as a command that asks for the same."""

import dataclasses

import pytest

from harness_ext.__main__ import _parser
from harness_ext.errors import UserError
from harness_ext.run.plan import plan
from harness_ext.run.spec import RunSpec, from_args, from_options

COMMANDS = (
    (),
    ("--pretrained", "tiny", "--tasks", "a,b", "--limit", "4"),
    ("--model", "hf", "--model_args", "revision=v2,attn_implementation=eager", "--batch_size", "auto:2", "--seed", "7"),
    ("--num_fewshot", "3", "--apply_chat_template", "--fewshot_as_multiturn", "--system_instruction", "Be brief, please."),
    ("--gen_kwargs", "max_gen_toks=5,temperature=0.5", "--think_budget", "9", "--procs", "2", "--force", "--allow_pickle"),
    (
        "--samples",
        '{"a": [0, 1]}',
        "--metadata",
        "dataset=org/x",
        "--train_samples",
        "all",
        "--apply_chat_template",
        "false",
    ),
)


def read(*words: str) -> RunSpec:
    return from_args(_parser().parse_args(["run", *words]))


@pytest.mark.parametrize("words", COMMANDS)
def test_spec_survives_json_and_its_own_command_line(words):
    spec = read(*words)
    assert RunSpec.from_json(spec.to_json()) == spec
    assert from_args(_parser().parse_args(spec.words())) == spec


def test_what_was_not_named_is_left_open():
    spec = read()
    given = {each.name for each in dataclasses.fields(spec) if getattr(spec, each.name) not in (None, {}, False)}
    assert given == {"seed", "procs", "output_path"}


def test_spec_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        read().limit = 4  # type: ignore[misc]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": "tiny", "task": "sst2_01", "batch": 4, "quant": "nf4"},
         ("--pretrained=tiny", "--tasks=sst2_01", "--batch_size=4", "--quantise=nf4")),
        ({"backend": "tfidf", "samples": 64, "seed": 3, "out": "x"},
         ("--model=tfidf", "--train_samples=64", "--seed=3", "--output_path=x")),
        ({"num_fewshot": 2, "limit": 4, "gen_kwargs": {"max_gen_toks": 5}},
         ("--num_fewshot=2", "--limit=4", "--gen_kwargs=max_gen_toks=5")),
    ],
)  # fmt: skip
def test_keywords_mean_what_the_flags_mean(options, words):
    assert from_options(**options) == read(*words)


@pytest.mark.parametrize("seed", [[0, 1], []])
def test_seeds_that_are_neither_one_nor_four_are_refused(seed):
    with pytest.raises(UserError, match="give one, or four"):
        from_options(seed=seed)


@pytest.mark.parametrize("samples", ["64", "[1]", '{"sst2_01": 1}', '{"sst2_01": ["x"]}', '{"sst2_01": [-1]}'])
def test_documents_that_are_not_named_by_number_and_task_are_refused(samples):
    with pytest.raises(UserError, match="does not name documents"):
        read("--samples", samples)


def test_plan_writes_nothing_says_nothing_and_names_the_runs_that_follow(answering, eight_rows, elsewhere, door, capfd):
    spec = read("--pretrained", str(answering), "--data_dir", str(eight_rows), "--tasks", "sst2_01,sst2_01_choice")
    capfd.readouterr()
    planned = plan(spec)
    assert capfd.readouterr() == ("", "")
    assert list(elsewhere.iterdir()) == []
    assert planned.checks.problems == []
    assert door(*spec.words()).code == 0
    written = sorted(path.name for path in elsewhere.glob("results/runs/*"))
    assert sorted(run.folder.name for run in planned.runs) == written


def test_plan_goes_on_after_a_problem_and_a_run_stops_at_the_first(elsewhere, door):
    words = ("--pretrained", "tiny", "--device", "cuda:99", "--data_dir", "absent")
    problems = plan(read(*words)).checks.problems
    assert [check.name for check in problems] == ["data", "choices"]
    assert door("run", *words).error == f"Error: {problems[0].said}"


def test_two_seeds_are_one_experiment_and_two_sizes_one_curve(elsewhere, door):
    from builders import SENTENCES, tsv_folder

    from harness_ext import evaluate

    data = tsv_folder(elsewhere / "data", train=SENTENCES * 4)
    runs = [
        evaluate(backend="tfidf", samples=samples, seed=seed, data_dir=data).record
        for samples, seed in ((4, 0), (4, 1), (8, 0))
    ]
    assert runs[0]["experiment"] == runs[1]["experiment"] != runs[2]["experiment"]
    assert len({run["curve"] for run in runs}) == 1
    assert len({run["key"] for run in runs}) == 3


def test_few_shot_runs_of_other_seeds_are_one_experiment_unless_the_system_message_differs(answering, eight_rows, elsewhere):
    from harness_ext import evaluate

    common = {"model": answering, "data_dir": eight_rows, "num_fewshot": 2}
    first, second, other = (
        evaluate(**common, **more).record
        for more in ({"seed": 1}, {"seed": 2}, {"seed": 1, "system_instruction": "Be brief."})
    )
    assert first["key"] != second["key"]
    assert first["experiment"] == second["experiment"] != other["experiment"]


def test_wrong_type_in_a_config_file_is_one_line(elsewhere, door):
    (elsewhere / "run.yaml").write_text("limit: [4]\n")
    assert "run.yaml" in door("run", "--config", "run.yaml").error


def test_error_of_spec_names_the_value():
    with pytest.raises(UserError, match="THINK_BUDGET '0' is not a whole number from 1 up"):
        read("--think_budget", "0")
