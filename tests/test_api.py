"""From Python: `evaluate` and `outcomes` give what the command line writes, and a worker shares what it has loaded."""

import json
from pathlib import Path

import pytest
import torch
from builders import CHAT_TEMPLATE, SENTENCES, answering_model, build_model
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

import harness_ext
from harness_ext import evaluate, outcomes
from harness_ext.errors import UserError
from harness_ext.model.loading import WholeModel
from harness_ext.run.worker import LocalWorker


@pytest.fixture(scope="module")
def run(answering, eight_rows, tmp_path_factory):
    out = tmp_path_factory.mktemp("api")
    return evaluate(model=answering, data_dir=eight_rows, out=out, num_fewshot=2)


def test_public_names_are_those_that_the_readme_names():
    assert set(harness_ext.__all__) == {"evaluate", "outcomes"}
    with pytest.raises(AttributeError, match="'evalute'"):
        harness_ext.evalute  # noqa: B018


def test_evaluate_writes_what_the_command_line_writes(run, answering, eight_rows, door, tmp_path):
    said = door("run", "--pretrained", answering, "--data_dir", eight_rows, "--num_fewshot", 2, "-o", tmp_path)
    assert said.code == 0, said.stderr
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name == run.folder.name
    assert {path.name for path in folder.iterdir()} == {path.name for path in run.folder.iterdir()}
    record = json.loads((folder / "run.json").read_text())
    for field in ("key", "counts", "metrics", "not_default", "method", "experiment"):
        assert record[field] == run.record[field]
    assert (folder / "outcomes.csv").read_text() == (run.folder / "outcomes.csv").read_text()
    assert run.record["not_default"] == {"shots": 2}


def test_outcomes_are_a_row_a_document_whose_labels_count_up_to_the_score(run):
    rows = outcomes(run)
    assert list(rows.gold) == [label for _, label in SENTENCES]
    assert (rows.lenient == rows.gold).mean() == run.score
    log = [json.loads(line) for line in (run.folder / "samples.jsonl").read_text().split("\n") if line]
    by_doc = {sample["doc_id"]: sample for sample in log if sample["filter"] == "lenient"}
    assert list(rows.hash) == [by_doc[doc]["doc_hash"] for doc in rows.doc]
    assert outcomes(run.folder).equals(rows)


def test_margin_is_the_difference_of_log_probabilities_after_the_prompt(run, answering):
    """Asked of transformers alone: the model answers " 0" or " 1", each one token."""
    from transformers import AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(answering), AutoModelForCausalLM.from_pretrained(answering).float()
    log = [json.loads(line) for line in (run.folder / "samples.jsonl").read_text().split("\n") if line]
    prompts = {sample["doc_id"]: sample["arguments"]["gen_args_0"]["arg_0"] for sample in log}
    rows = outcomes(run)
    assert rows.margin.notna().all()
    for doc, margin in zip(rows.doc, rows.margin, strict=True):
        ids = tokenizer(prompts[doc], return_tensors="pt")["input_ids"]
        with torch.no_grad():
            scores = model(ids).logits[0, -1].log_softmax(-1)
        zero, one = (
            tokenizer(prompts[doc] + answer)["input_ids"][ids.shape[1] :] for answer in (" 0", " 1")
        )  # the tokens that a forced choice would score
        assert len(zero) == len(one)
        if len(zero) == 1:
            assert margin == pytest.approx(float(scores[one[0]] - scores[zero[0]]), abs=1e-4)


@pytest.mark.parametrize("template", [None, CHAT_TEMPLATE], ids=["plain", "chat"])
def test_margin_of_a_written_answer_is_that_of_a_forced_choice(template, eight_rows, tmp_path):
    """A chat template ends in a line break, which lm-eval takes for the beginning of what is chosen between."""
    model = answering_model(tmp_path / "model", "llama", chat_template=template)
    written, chosen = (
        outcomes(evaluate(model=model, data_dir=eight_rows, task=task, out=tmp_path))
        for task in ("sst2_01", "sst2_01_choice")
    )
    assert list(written.margin) == pytest.approx(list(chosen.margin), abs=1e-4)
    assert list(chosen.choice) == [int(margin > 0) for margin in chosen.margin]


@pytest.mark.parametrize(
    ("options", "fragments"),
    [
        ({"modle": "tiny"}, ("'modle'", "Did you mean model")),
        ({"limit": -3}, ("LIMIT -3",)),
        ({"model": "nowhere at all"}, ("neither a folder nor a Hub id",)),
        ({"task": "sst2_01_mini,sst2_01_mini_choice"}, ("Unknown task",)),
    ],
)
def test_mistake_is_the_command_lines_error(options, fragments, elsewhere):
    with pytest.raises(UserError) as error:
        evaluate(**options)
    assert [fragment for fragment in fragments if fragment not in str(error.value)] == []
    assert not (elsewhere / "results").exists()


def test_one_task_at_a_time(answering, eight_rows, elsewhere):
    with pytest.raises(UserError, match="one task at a time, not sst2_01, sst2_01_choice"):
        evaluate(model=answering, data_dir=eight_rows, task="sst2_01,sst2_01_choice")


def test_folder_without_outcomes_is_named(tmp_path):
    with pytest.raises(UserError, match=r"no .*outcomes\.csv"):
        outcomes(tmp_path)


@pytest.fixture(scope="module")
def adapters(tmp_path_factory) -> tuple[Path, list[Path]]:
    """A base stored in bfloat16, in which an adapter is never merged, and two adapters on it."""
    folder = tmp_path_factory.mktemp("adapters")
    base = build_model(folder / "base", "llama")
    AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).save_pretrained(base)
    made = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        config = LoraConfig(r=4, lora_alpha=64, task_type="CAUSAL_LM", target_modules=["q_proj"], init_lora_weights=False)
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
        made.append(folder / f"adapter{seed}")
        model.save_pretrained(made[-1])
    return base, made


def test_worker_loads_a_base_once_and_swaps_adapters_on_it(adapters, eight_rows, tmp_path, monkeypatch):
    base, made = adapters
    loads = []
    load = WholeModel.from_pretrained

    def counted(self, *args, **kwargs):
        loads.append(args)
        return load(self, *args, **kwargs)

    monkeypatch.setattr(WholeModel, "from_pretrained", counted)
    common = {"model": base, "data_dir": eight_rows, "dtype": "bfloat16", "device": "cpu"}
    alone = [evaluate(adapter=each, out=tmp_path / "alone", **common) for each in made]
    assert len(loads) == 2
    worker = LocalWorker()
    common |= {"worker": worker, "force": True}
    shared = [evaluate(adapter=each, out=tmp_path / "shared", **common) for each in (*made, made[0])]
    assert len(loads) == 3
    for one, other in zip(shared, (*alone, alone[0]), strict=True):
        assert outcomes(one).equals(outcomes(other))
        assert one.record["key"] == other.record["key"]
    assert not outcomes(shared[0]).equals(outcomes(shared[1])), "the adapters answer alike, so that nothing is shown"
    assert [run.record["self_check"]["passed"] for run in shared] == [True, True, True]


def test_a_response_that_reads_like_a_missing_value_stays_text(tmp_path):
    lines = [
        "doc,hash,gold,lenient,strict,kind,margin,response",
        "0,a,1,1,,label,0.25,1",
        "1,b,0,,,word,,NA",
        "2,c,0,,,empty,,",
    ]
    (tmp_path / "outcomes.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    rows = outcomes(tmp_path)
    assert rows["response"].tolist() == ["1", "NA", ""]
    assert rows["lenient"].isna().tolist() == [False, True, True]
    assert rows["margin"].isna().tolist() == [False, True, True]
    assert (rows["lenient"] == rows["gold"]).fillna(False).tolist() == [True, False, False]
