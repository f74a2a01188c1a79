"""Two runs are the same if and only if nothing that can change their numbers differs."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from builders import CHAT_TEMPLATE, SENTENCES, answering_model, build_tokenizer, tsv_folder
from lm_eval.config.task import FewshotConfig, TaskConfig

from harness_ext.__main__ import _parser
from harness_ext.errors import UserError
from harness_ext.paths import TASKS_DIR
from harness_ext.run import provenance
from harness_ext.run.plan import plan
from harness_ext.run.spec import from_args
from harness_ext.task import content

TASK = f"include: {TASKS_DIR}/sst2_01/_template.yaml\ntask: mine\n"
HELPER = """
from harness_ext.task.metrics import score_document
WEIGHT = 1
def results(doc, results):  # ours
    return {name: value for name, value in score_document(doc, results).items()}
def sentence(doc):
    return doc["sentence"] + " ?"
def rows(docs):
    return docs
def label(doc):
    return doc["label"]
def numbers(doc):
    return ["0", "1"]
def average(values):
    return sum(values) / len(values) * WEIGHT
def shots():
    return [{"sentence": "so so", "label": 0}] * 4
"""


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """A model with a chat template, data and a task."""
    folder = tmp_path_factory.mktemp("identity")
    answering_model(folder / "model", "llama", chat_template=CHAT_TEMPLATE)
    tsv_folder(folder / "data")
    write_task(folder / "tasks")
    return folder


def write_task(folder: Path, more: str = "", helper: str = HELPER) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "mine.yaml").write_text(TASK + more)
    (folder / "helper.py").write_text(helper)
    return folder


def planned_key(*words: str | Path) -> str:
    """The key of the run that a command line asks for, without running it; what would stop it is raised."""
    planned = plan(from_args(_parser().parse_args(list(map(str, words)))))
    for problem in planned.checks.problems:
        raise UserError(problem.said)
    (run,) = planned.runs
    return run.key


def key_of(
    room: Path, *flags: str | Path, tasks: Path | None = None, data: Path | None = None, model: Path | None = None
) -> str:
    """The key of a run that is not run."""
    own = ("--tasks", "mine", "--include_path", tasks or room / "tasks", "--data_dir", data or room / "data")
    words = ("run", "--pretrained", model or room / "model", *own, *flags)
    return planned_key(*words)


SHOTS = "num_fewshot: 2\n"
# Of each field of a task: what stands in its file before, and after.
FIELDS = {
    "fewshot_split": (SHOTS, SHOTS + "fewshot_split: validation\n"),
    "doc_to_text": ("", 'doc_to_text: "{{sentence}} {% if label %}!{% endif %}"\n'),
    "doc_to_target": ("", "doc_to_target: '{{1 - label}}'\n"),
    "doc_to_image": ("", "doc_to_image: label\n"),
    "doc_to_audio": ("", "doc_to_audio: label\n"),
    "unsafe_code": ("", "unsafe_code: true\n"),
    "doc_to_choice": ("filter_list: null\n", 'filter_list: null\ndoc_to_choice: ["no", "yes"]\n'),
    "process_results": ("", "process_results: !function helper.results\n"),
    "description": ("", "description: 'Listen. '\n"),
    "target_delimiter": ("", "target_delimiter: '  '\n"),
    "fewshot_delimiter": (SHOTS, SHOTS + "fewshot_delimiter: '\\n'\n"),
    "fewshot_config": (SHOTS, SHOTS + "fewshot_config: {sampler: first_n}\n"),
    "num_fewshot": ("", "num_fewshot: 1\n"),
    "metric_list": ("", "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"),
    "output_type": (
        "generation_kwargs: null\nfilter_list: null\n",
        "generation_kwargs: null\nfilter_list: null\noutput_type: multiple_choice\n",
    ),
    "generation_kwargs": ("", "generation_kwargs: {until: [], do_sample: false, max_gen_toks: 9}\n"),
    "repeats": ("", "repeats: 2\n"),
    "filter_list": ("", "filter_list: [{name: lenient, filter: [{function: label01, rule: lenient}]}]\n"),
    "should_decontaminate": ("", "should_decontaminate: true\ndoc_to_decontamination_query: sentence\n"),
    "doc_to_decontamination_query": ("", "doc_to_decontamination_query: sentence\n"),
    "gen_prefix": ("", "gen_prefix: 'It is'\n"),
    "metadata": ("", "metadata: {version: 7}\n"),
}


def test_every_field_of_a_task_is_either_in_the_key_or_left_out_for_a_reason():
    fields = {field.name for field in dataclasses.fields(TaskConfig)}
    assert fields - FIELDS.keys() == {*content.NAMES, *content.DATA, "use_prompt"}  # promptsource, which lm-eval left


@pytest.mark.parametrize("field", FIELDS)
def test_field_of_a_task_that_changes_gives_another_key(field, room, tmp_path):
    before, after = FIELDS[field]
    tasks = [write_task(tmp_path / name, more) for name, more in (("before", before), ("after", after))]
    assert key_of(room, tasks=tasks[0]) != key_of(room, tasks=tasks[1])


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(FewshotConfig)])
def test_field_of_the_examples_that_changes_gives_other_content(field):
    config = TaskConfig(task="t", fewshot_config={"sampler": "default"})
    before = content.task_content(config)
    setattr(config.fewshot_config, field, "other")
    assert content.task_content(config) != before


@pytest.mark.parametrize(
    ("setting", "was", "now"),
    [
        ("process_results: !function helper.results", "# ours", "# mine\n    results = results[::-1]"),
        ("process_results: !function helper.results", "WEIGHT = 1", "WEIGHT = 2"),  # anything that it may use
        ("doc_to_text: !function helper.sentence", " ?", "?"),
        ("doc_to_target: !function helper.label", 'doc["label"]', '1 - doc["label"]'),
        ("doc_to_choice: !function helper.numbers", '"0", "1"', '"1", "0"'),
        ("metric_list: [{metric: acc, aggregation: !function helper.average, higher_is_better: true}]", "* WEIGHT", ""),
        ("num_fewshot: 2\nfewshot_config: {sampler: first_n, samples: !function helper.shots}", "so so", "never"),
        ("process_docs: !function helper.rows", "return docs", "return docs.select([0, 1, 2])"),
    ],
)
def test_function_of_a_task_counts_by_its_source(setting, was, now, room, tmp_path):
    assert was in HELPER
    before = write_task(tmp_path / "before", setting + "\n")
    after = write_task(tmp_path / "after", setting + "\n", HELPER.replace(was, now))
    assert key_of(room, tasks=before) != key_of(room, tasks=after)


# Of each setting: what stands on the command line in both runs, and in the second only.
SETTINGS = {
    "limit": ((), ("--limit", "4")),
    "samples": ((), ("--samples", '{"mine": [0, 1]}')),
    "num_fewshot": ((), ("--num_fewshot", "1")),
    "seed of the examples": (("--num_fewshot", "1"), ("--seed", "0,1234,1234,7")),
    "seed": ((), ("--seed", "7")),
    "dtype": ((), ("--dtype", "bfloat16")),
    "quantisation": ((), ("--quantise", "nf4")),
    "generation": ((), ("--gen_kwargs", "max_gen_toks=3")),
    "sampling": ((), ("--gen_kwargs", "do_sample=true,temperature=0.7")),
    "system message": ((), ("--system_instruction", "Be brief.")),
    "chat template": ((), ("--apply_chat_template", "false")),
    "template arguments": ((), ("--model_args", '{"chat_template_args": {"name": 1}}')),
    "turns": (("--num_fewshot", "1"), ("--fewshot_as_multiturn", "false")),
    "backend": ((), ("--model", "hf")),
    "engine": ((), ("--engine", "stock")),
    "max_length": ((), ("--model_args", "max_length=300")),
    "add_bos_token": ((), ("--model_args", "add_bos_token=true")),
    "think_end_token": ((), ("--model_args", "think_end_token=</t>")),
    "prefix_token_id": ((), ("--model_args", "prefix_token_id=3")),
    "attention": ((), ("--model_args", "attn_implementation=eager")),
    "batch, stock": (("--engine", "stock"), ("--batch_size", "2")),
    "batch, hf": (("--model", "hf"), ("--batch_size", "2")),
    "batch, 16 bits": (("--dtype", "bfloat16"), ("--batch_size", "2")),
    "largest batch": (("--engine", "stock", "--batch_size", "auto"), ("--max_batch_size", "2")),
    "processes, 16 bits": (("--dtype", "bfloat16"), ("--procs", "2")),
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_setting_that_can_move_a_number_gives_another_key(setting, room):
    both, more = SETTINGS[setting]
    assert key_of(room, *both) != key_of(room, *both, *more)


@pytest.mark.parametrize(
    ("both", "more"),
    [
        ((), ("-o", "elsewhere")),
        ((), ("--verbosity", "ERROR")),
        ((), ("--force",)),
        ((), ("--show_config",)),
        ((), ("--use_cache", "cache")),
        ((), ("--hf_hub_log_args", "token=hf_abcdefghijkl")),
        ((), ("--model_args", "token=hf_abcdefghijkl")),
        ((), ("--batch_size", "2")),  # float32: what is asked, not how
        ((), ("--procs", "2")),
        (("--gen_kwargs", "do_sample=true,temperature=0.7"), ("--batch_size", "2", "--procs", "2")),
        (("--num_fewshot", "0"), ("--fewshot_as_multiturn", "false")),
    ],
    ids=lambda flags: " ".join(flags),
)
def test_setting_that_cannot_move_a_number_gives_the_same_key(both, more, room):
    assert key_of(room, *both) == key_of(room, *both, *more)


def test_place_of_model_data_and_task_gives_the_same_key(room, tmp_path, monkeypatch):
    for name in ("model", "data", "tasks"):
        shutil.copytree(room / name, tmp_path / name)
    yaml = tmp_path / "tasks" / "mine.yaml"
    yaml.write_text("# Mine.\n" + yaml.read_text())
    here = key_of(room)
    assert here == key_of(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert here == key_of(Path())


def test_comment_or_docstring_in_a_function_gives_the_same_key(room, tmp_path):
    setting = "process_results: !function helper.results\n"
    before = write_task(tmp_path / "before", setting)
    after = write_task(
        tmp_path / "after",
        setting,
        '"""Now with a docstring."""\n# And a comment.\n' + HELPER.replace("# ours", "# ours, still"),
    )
    assert key_of(room, tasks=before) == key_of(room, tasks=after)


def test_content_of_another_tokenizer_gives_another_key_and_its_place_does_not(room, tmp_path):
    for name, template in (("one", CHAT_TEMPLATE), ("two", CHAT_TEMPLATE), ("other", CHAT_TEMPLATE.replace("user", "User"))):
        build_tokenizer("llama", chat_template=template, lines=["a b c"] if name == "other" else ["a b"]).save_pretrained(
            tmp_path / name
        )
    one, two, other = (key_of(room, "--model_args", f"tokenizer={tmp_path / name}") for name in ("one", "two", "other"))
    assert one == two
    assert len({one, other, key_of(room)}) == 3


@pytest.mark.parametrize("package", ["tokenizers", "transformers", "torch", "lm_eval", "peft"])
def test_version_of_a_package_gives_another_key(package, room, monkeypatch):
    before = key_of(room)
    version = provenance.version
    monkeypatch.setattr(provenance, "version", lambda name: "0.0" if name == package else version(name))
    assert key_of(room) != before


def test_rows_that_a_baseline_is_fitted_on_count_by_content(room, tmp_path):
    same = tsv_folder(tmp_path / "same", train=SENTENCES * 3)
    other = tsv_folder(tmp_path / "other", train=[(f"not {sentence}", label) for sentence, label in SENTENCES * 3])

    def key(data):
        words = ("run", "--model", "tfidf", "--tasks", "mine", "--include_path", room / "tasks", "--data_dir", data)
        return planned_key(*words)

    assert key(same) == key(same) != key(other)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", 'doc_to_choice: ["no", "yes"]\n'),
        ("", "target_delimiter: ''\n"),
        ("process_results: !function helper.results\n", "process_results: !function helper.results \n"),
        ("", "doc_to_text: \"{% if 'mess' in sentence %}Hm: {% endif %}{{sentence}}\\nAnswer:\"\n"),
    ],
    ids=["doc_to_choice", "target_delimiter", "process_results", "branch"],
)
def test_edited_task_is_run_anew(before, after, room, tmp_path, elsewhere, door):
    """The branch is one that the first document does not take; both helpers differ where there is one."""
    more = "output_type: multiple_choice\ngeneration_kwargs: null\nfilter_list: null\n" if "process" not in before else ""
    flags = (
        "run",
        "--pretrained",
        room / "model",
        "--data_dir",
        room / "data",
        "--tasks",
        "mine",
        "--include_path",
        tmp_path / "t",
    )
    if "branch" in after:
        before = 'doc_to_text: "{{sentence}}\\nAnswer:"\n'
    write_task(tmp_path / "t", more + before)
    assert door(*flags).code == 0
    assert "Already done" in door(*flags).stderr
    write_task(tmp_path / "t", more + after, HELPER.replace("# ours", "# ours\n    results = ['1']"))
    said = door(*flags)
    assert said.code == 0
    assert "Already done" not in said.stderr
    assert len(list(elsewhere.glob("results/runs/*"))) == 2


def test_run_of_another_key_with_the_same_eight_digits_is_not_taken_for_done(room, elsewhere, door):
    flags = (
        "run",
        "--pretrained",
        room / "model",
        "--data_dir",
        room / "data",
        "--tasks",
        "mine",
        "--include_path",
        room / "tasks",
    )
    assert door(*flags).code == 0
    (folder,) = elsewhere.glob("results/runs/*")
    record = json.loads((folder / "run.json").read_text())
    forged = record | {"key": record["key"][:8] + "0" * 56, "n": 5}
    (folder / "run.json").write_text(json.dumps(forged))
    said = door(*flags)
    assert "Already done" not in said.stderr
    assert (elsewhere / "results" / "runs" / f"{folder.name[:-8]}{record['key'][:16]}" / "run.json").is_file()
    assert json.loads((folder / "run.json").read_text())["n"] == 5, "the other run is left as it is"
    assert "Already done" in door(*flags).stderr
