"""An adapter's key: whatever can change its weights gives another, and what cannot does not."""

import json
import shutil
from pathlib import Path

import pytest
from builders import CHAT_TEMPLATE, SENTENCES, build_model, tsv_folder
from training import train

import finetune.__main__
from finetune.plan import make_plan
from finetune.spec import read_spec
from harness_ext.paths import ROOT
from harness_ext.run import provenance

ROWS = [(f"a {word} film {n}", label) for n in range(6) for label, word in enumerate(("bad", "good"))]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A model, data, and the task's own files to change."""
    folder = tmp_path_factory.mktemp("key")
    build_model(folder / "model", "llama", chat_template=CHAT_TEMPLATE)
    tsv_folder(folder / "data", SENTENCES, ROWS)
    shutil.copytree(ROOT / "tasks" / "sst2_01", folder / "tasks")
    return folder


@pytest.fixture
def own(files, tmp_path):
    return Path(shutil.copytree(files, tmp_path / "own"))


def plan_of(folder, *more):
    argv = [f"--model={folder / 'model'}", f"--data_dir={folder / 'data'}", "--samples=4", *more]
    return make_plan(read_spec(finetune.__main__.train_parser().parse_args(argv)))


def key(folder, *more):
    (job,) = plan_of(folder, *more).jobs
    return job.key


def edit(path, *changes):
    text = path.read_text(encoding="utf-8")
    for old, new in changes:
        assert old in text, text
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")


def edit_json(path, change):
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def other_weights(folder):
    build_model(folder / "model", "llama", chat_template=CHAT_TEMPLATE, seed=1)


def other_template(folder):
    (path,) = (folder / "model").glob("*.jinja")
    edit(path, ("assistant\n", "assistant:\n"))


def other_tokenizer(folder):
    """A merge less: some words are other tokens."""
    edit_json(
        folder / "model" / "tokenizer.json", lambda content: content["model"].update(merges=content["model"]["merges"][5:])
    )


def one_word(folder):
    edit(folder / "data" / "train.tsv", ("a good film 3", "a great film 3"))


def all_labels(folder):
    edit(folder / "data" / "train.tsv", ("\t0", "\t2"), ("\t1", "\t0"), ("\t2", "\t1"))


FILES = {
    "weights": other_weights,
    "template": other_template,
    "tokenizer": other_tokenizer,
    "word": one_word,
    "labels": all_labels,
}


@pytest.mark.parametrize("name", FILES)
def test_what_lies_in_a_folder_counts_and_not_its_name(name, files, own):
    assert key(own) == key(files)  # the same content elsewhere, under the same names
    FILES[name](own)
    assert key(own) != key(files)


@pytest.mark.parametrize(
    "more",
    [
        ["--set=rank=4"], ["--set=learning_rate=0.1"], ["--set=steps={2: 7}"], ["--set=dropout=0.5"], ["--set=batch_size=4"],
        ["--set=balanced_batches=false"], ["--set=target_modules=[q_proj]"], ["--set=quantise=nf4"], ["--set=quantise=int8"],
        ["--dtype=bfloat16"], ["--recipe=tiny"],
    ],
    ids=lambda more: more[0],
)  # fmt: skip
def test_every_setting_counts(more, files):
    assert key(files, *more) != key(files)


def test_seed_and_samples_count(files):
    assert len({key(files), key(files, "--seed=1"), key(files, "--samples=8"), key(files, "--samples=all")}) == 4


def test_what_a_task_asks_and_answers_counts(own, tmp_path):
    """Also where the first row's prompt stays as it was."""
    changes = [
        "",
        'doc_to_text: "{{sentence}}?"',
        """doc_to_text: "{% if '5' in sentence %}{{sentence}}?{% else %}{{sentence}}:{% endif %}\"""",
        'doc_to_text: "{{sentence}}:"',
        'doc_to_target: "{{1 - label}}"',
        'target_delimiter: "  "',
        'doc_to_choice: ["no", "yes"]\nfilter_list: null',
        'description: "Read."',
    ]
    for path in (own / "model").glob("*.jinja"):
        path.unlink()  # behind a chat template no delimiter stands before the answer
    keys = set()
    for number, change in enumerate(changes):
        folder = tmp_path / f"tasks{number}"
        folder.mkdir()
        for name in ("utils.py", "_template.yaml"):
            shutil.copy(own / "tasks" / name, folder)
        (folder / "mine.yaml").write_text(f"include: _template.yaml\ntask: mine\n{change}\n")
        keys.add(key(own, "--task=mine", f"--include_path={folder}", "--samples=all"))
    assert len(keys) == len(changes)


@pytest.mark.parametrize("package", ["transformers", "torch", "peft"])
def test_versions_count(package, files, monkeypatch):
    before = key(files)
    version = provenance._version
    monkeypatch.setattr(provenance, "_version", lambda name: "0.0" if name == package else version(name))
    assert key(files) != before


def test_version_of_the_quantiser_counts_for_a_quantised_base_alone(files, monkeypatch):
    before = [key(files), key(files, "--set=quantise=nf4")]
    version = provenance._version
    monkeypatch.setattr(provenance, "_version", lambda name: "0.0" if name == "bitsandbytes" else version(name))
    assert key(files) == before[0]
    assert key(files, "--set=quantise=nf4") != before[1]


def test_bases_and_data_of_one_name_are_told_apart_by_their_content(files, tmp_path):
    out = tmp_path / "out"
    for number, change in enumerate([None, other_weights, one_word]):
        folder = Path(shutil.copytree(files, tmp_path / str(number)))
        if change:
            change(folder)
        argv = [f"--model={folder / 'model'}", f"--data_dir={folder / 'data'}", f"--output_path={out}", "--samples=4",
                "--set=steps={2: 2}", "--set=evaluations=1"]  # fmt: skip
        done = train(*argv)
        assert done.code == 0
        assert "Already done" not in done.stderr
    made = [json.loads(path.read_text()) for path in out.glob("adapters/*/run.json")]
    assert len(made) == 3
    assert {manifest["base"].rpartition("/")[2] for manifest in made} == {"model"}
    assert {manifest["data"] for manifest in made} == {"data/train.tsv"}
    assert len({(manifest["base_version"], manifest["data_fingerprint"]) for manifest in made}) == 3
    assert (
        len({manifest["base_version"] for manifest in made}) == len({manifest["data_fingerprint"] for manifest in made}) == 2
    )


def test_finished_adapter_is_recognised_by_its_whole_key(files, tmp_path):
    argv = [f"--model={files / 'model'}", f"--data_dir={files / 'data'}", f"--output_path={tmp_path}", "--samples=4",
            "--set=steps={2: 2}", "--set=evaluations=1"]  # fmt: skip
    assert train(*argv).code == 0
    (path,) = tmp_path.glob("adapters/*/run.json")
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"key": manifest["key"][:8] + "0" * 56}))  # another, whose eight digits are these
    assert "Already done" not in train(*argv).stderr
    made = [json.loads(each.read_text())["key"] for each in sorted(tmp_path.glob("adapters/*/run.json"))]
    assert manifest["key"] in made
    assert len(made) == 2  # the other's is left alone
    assert "Already done" in train(*argv).stderr
    (path,) = (
        each for each in tmp_path.glob("adapters/*/run.json") if json.loads(each.read_text())["key"] == manifest["key"]
    )
    path.write_text("{")
    assert "damaged" in train(*argv).error


# --- a prompt without its sentence ---------------------------------------------------------------------------------------


def test_template_that_drops_the_sentence_is_said_before_the_base_is_loaded(own, monkeypatch, capfd, tmp_path):
    (path,) = (own / "model").glob("*.jinja")
    edit(path, ("{{ message['content'] }}", "{{ message['content'][:40] }}"))
    monkeypatch.setattr("finetune.train.load_base", lambda *args: pytest.fail("it was loaded"))
    argv = [f"--model={own / 'model'}", f"--data_dir={own / 'data'}", f"--output_path={tmp_path / 'out'}", "--samples=4"]
    assert finetune.__main__.main(argv) == 2
    said = capfd.readouterr().err
    assert "'model''s chat template" in said
    assert not (tmp_path / "out").exists()


def test_tokenizer_that_is_told_to_truncate_gives_the_whole_text_to_training(own):
    """As MiniLM's tokenizer.json is, at 128 tokens: transformers takes it back where no truncation is asked for."""
    (whole,) = plan_of(own).jobs
    truncation = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    edit_json(own / "model" / "tokenizer.json", lambda content: content.update(truncation=truncation))
    (cut,) = plan_of(own).jobs
    assert cut.examples == whole.examples
