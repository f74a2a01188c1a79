"""The variants of the question: what each asks, that each is answered as stock lm-eval's is, and what they share."""

import pytest
import torch
from builders import LINES, SENTENCES, build_model
from fakeresults import read_outcomes
from stock import assert_same_answers, samples_of, stock_samples
from test_leaderboard import manifest
from training import SHORT, adapters, train, words_folder
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune.data import collate_prompts, encode_examples
from harness_ext.paths import TASKS_DIR
from harness_ext.results import advice
from harness_ext.results.records import read_runs
from harness_ext.task.find import build_tasks
from harness_ext.task.prompts import render_completion, render_prompt

ASK = "Does this sentence from a movie review express a positive or a negative opinion?\n"
# prompt before the sentence, prompt after it, answer for label 0, answer for label 1
VARIANTS = {
    "sst2_01": (f"{ASK}Answer with 1 for positive or 0 for negative, and nothing else.", "Answer:", " 0", " 1"),
    "sst2_01_words": (f"{ASK}Answer with positive or negative, and nothing else.", "Answer:", " negative", " positive"),
    "sst2_01_swapped": (f"{ASK}Answer with 0 for positive or 1 for negative, and nothing else.", "Answer:", " 1", " 0"),
    "sst2_01_reordered": (
        "Does this sentence from a movie review express a negative or a positive opinion?\n"
        "Answer with 0 for negative or 1 for positive, and nothing else.",
        "Answer:", " 0", " 1",
    ),
    "sst2_01_wording2": (
        "Is the following sentence from a movie review positive or negative?\n"
        "Reply with a single digit: 1 if it is positive, 0 if it is negative.",
        "Reply:", " 0", " 1",
    ),
    "sst2_01_wording3": (
        "Classify the sentiment of a sentence from a movie review. Write only the digit of its class.\n"
        "1: positive\n0: negative",
        "Class:", " 0", " 1",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def built(eight_rows):
    return {task.task_name: task for task in build_tasks(["sst2_prompts"], metadata={"data_dir": str(eight_rows)})}


def test_group_has_each_variant_written_and_chosen(built):
    assert list(built) == [name for variant in VARIANTS for name in (variant, f"{variant}_choice")]
    for name, task in built.items():
        assert ("multiple_choice" if name.endswith("_choice") else "generate_until") == task.OUTPUT_TYPE


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("suffix", ["", "_choice"])
def test_variant_asks_what_it_should_and_its_labels_stay_0_negative_and_1_positive(variant, suffix, built):
    before, after, *answers = VARIANTS[variant]
    task = built[variant + suffix]
    for label, answer in enumerate(answers):
        document = {"sentence": "a {{ film }}", "label": label}
        assert render_prompt(task, document) == f"{before}\n\nSentence: a {{{{ film }}}}\n{after}"
        assert render_completion(task, document) == answer
        if suffix:
            scores = [(float(number == label), False) for number in (0, 1)]  # what is likelier: this label's answer
        else:
            predicted = {each.name: each.filters[0]().apply([[answer.strip()]], [document]) for each in task._filters}
            assert predicted == {"lenient": [str(label)], "strict": [str(label)]}
            scores = predicted["lenient"]
        assert task.process_results(document, scores)["acc"] == 1


def test_examples_in_a_prompt_are_answered_as_the_variant_asks(eight_rows):
    for name, answers in (("sst2_01_words", {"negative", "positive"}), ("sst2_01_swapped", {"0", "1"})):
        (task,) = build_tasks([name], metadata={"data_dir": str(eight_rows)})
        task.set_config(key="num_fewshot", value=8)
        task.set_fewshot_seed(0)
        shots = render_prompt(task, {"sentence": "x", "label": 0}).split("Sentence: ")[1:-1]
        said = {shot.split("\nAnswer: ")[0]: shot.split("\nAnswer: ")[1].split("\n")[0] for shot in shots}
        assert set(said.values()) == answers
        zero, one = VARIANTS[name][2:]
        assert said == {sentence: (zero, one)[label].strip() for sentence, label in SENTENCES}


@pytest.fixture(scope="module")
def speaking(tmp_path_factory):
    """A model that writes `" negative"` or `" positive"`, by its input, and again, or nearly as likely `" 0"` or `" 1"`."""
    folder = build_model(tmp_path_factory.mktemp("models") / "speaking", "llama", seed=1)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    prompts = [f"{LINES[0]}\nAnswer with positive or negative.\n\nSentence: {text}\nAnswer:" for text, _ in SENTENCES]
    with torch.no_grad():
        ids = [torch.tensor([tokenizer(prompt).input_ids]) for prompt in prompts]
        states = torch.stack([model(each, output_hidden_states=True).hidden_states[-1][0, -1] for each in ids])
        mean = states.mean(0)
        direction = torch.randn(len(mean), generator=torch.Generator().manual_seed(1))
        direction -= direction @ mean / (mean @ mean) * mean
        model.lm_head.weight.zero_()
        for size, pair in ((1.0, (" negative", " positive")), (0.9, (" 1", " 0"))):
            for sign, word in zip((1, -1), pair, strict=True):
                (token,) = tokenizer(word, add_special_tokens=False).input_ids
                model.lm_head.weight[token] = sign * size * direction
    model.save_pretrained(folder)
    return folder


def run(door, model, data, out, task, *more):
    done = door("run", "--pretrained", model, "--data_dir", data, "-o", out, "--tasks", task, *more)
    assert done.code == 0, done.stderr
    return done


@pytest.mark.parametrize("task", ["sst2_01_words", "sst2_01_words_choice"])
def test_words_are_answered_as_by_stock_lm_eval(task, door, speaking, eight_rows, tmp_path):
    run(door, speaking, eight_rows, tmp_path, task)
    ours, stock = samples_of(tmp_path), stock_samples(speaking, eight_rows, task)
    assert_same_answers(ours, stock)
    assert {sample["mcc"][1] for sample in ours} == {
        0,
        1,
        *([-1] if task == "sst2_01_words" else []),
    }  # -1 by the strict rule
    (record,) = read_runs(tmp_path)
    if task == "sst2_01_words":
        assert record["engine"]["stopped_when_settled"] == 8
        assert all(len(mine["resps"][0][0]) < len(whole["resps"][0][0]) for mine, whole in zip(ours, stock, strict=True))
        assert record["near_ties"] == 0


@pytest.mark.parametrize("task", ["sst2_01_swapped", "sst2_01_swapped_choice"])
def test_swapped_digits_are_answered_as_by_stock_lm_eval(task, door, answering, eight_rows, tmp_path):
    run(door, answering, eight_rows, tmp_path, task)
    ours = samples_of(tmp_path)
    assert_same_answers(ours, stock_samples(answering, eight_rows, task))
    if task == "sst2_01_swapped":
        for sample in ours:
            assert sample["filtered_resps"] in ([{"0": "1", "1": "0"}[sample["resps"][0][0].strip()[0]]], ["[other]"])


def test_margin_is_that_of_the_positive_answer_over_the_negative_one(door, speaking, eight_rows, tmp_path):
    run(door, speaking, eight_rows, tmp_path, "sst2_prompts")
    tokenizer, model = AutoTokenizer.from_pretrained(speaking), AutoModelForCausalLM.from_pretrained(speaking).eval()
    for record in read_runs(tmp_path):
        before, after, *answers = VARIANTS[record["task"].removesuffix("_choice")]
        (file,) = tmp_path.glob(f"runs/*--{record['task']}--*/outcomes.csv")
        zero, one = (tokenizer(answer, add_special_tokens=False).input_ids[0] for answer in answers)
        for outcome, (sentence, _) in zip(read_outcomes(file), SENTENCES, strict=True):
            with torch.no_grad():
                ids = tokenizer(f"{before}\n\nSentence: {sentence}\n{after}", return_tensors="pt")
                scores = model(**ids).logits[0, -1].log_softmax(-1)
            assert outcome.margin == pytest.approx(float(scores[one] - scores[zero]), abs=1e-3), record["task"]


def test_group_reads_each_prompt_once_and_collects_the_choices_of_that_prompt_alone(
    door, speaking, eight_rows, tmp_path, monkeypatch
):
    from harness_ext.backend.answer import AnswerLM

    prepare, collected = AnswerLM.prepare, []

    def watched(self, settled, choices=(), answers=(), seed=0):
        collected.append((list(choices), list(answers)))
        prepare(self, settled, choices, answers, seed)

    monkeypatch.setattr(AnswerLM, "prepare", watched)
    run(door, speaking, eight_rows, tmp_path / "all", "sst2_prompts")
    pairs = [VARIANTS[name][2:] for name in VARIANTS]
    assert collected == [([zero, one], [zero, one]) for zero, one in pairs] + [([], [zero, one]) for zero, one in pairs]
    for record in read_runs(tmp_path / "all"):
        if record["task"].endswith("_choice"):
            assert record["engine"] == {"path": "shared prefix", "from_generation": 16}, record["task"]
    run(door, speaking, eight_rows, tmp_path / "alone", "sst2_01_words_choice")
    (together,) = [each for each in read_runs(tmp_path / "all") if each["task"] == "sst2_01_words_choice"]
    (alone,) = read_runs(tmp_path / "alone")
    assert together["counts"] == alone["counts"]
    assert alone["engine"].get("from_generation") == 0


def test_words_that_begin_with_the_same_token_are_said_and_scored_whole(door, random_model, eight_rows, tmp_path):
    text = (TASKS_DIR / "sst2_01" / "sst2_01_words_choice.yaml").read_text()
    included = f"include: {TASKS_DIR}/sst2_01/sst2_01_words.yaml"
    text = text.replace("include: sst2_01_words.yaml", included).replace("sst2_01_words_choice", "t")
    (tmp_path / "t.yaml").write_text(f"{text}doc_to_choice: [neutral, nil]\n")
    done = run(door, random_model, eight_rows, tmp_path, "t", "--include_path", tmp_path)
    assert "'neutral' and 'nil' begin with the same token ('n')" in done.stderr
    tokenizer, model = AutoTokenizer.from_pretrained(random_model), AutoModelForCausalLM.from_pretrained(random_model).eval()
    for sample in samples_of(tmp_path):
        for number, word in enumerate((" neutral", " nil")):
            prompt = sample["arguments"][f"gen_args_{number}"]["arg_0"]
            start, ids = len(tokenizer(prompt).input_ids), tokenizer(prompt + word, return_tensors="pt").input_ids
            with torch.no_grad():
                scores = model(ids).logits[0, start - 1 : -1].log_softmax(-1)
            expected = float(scores.gather(1, ids[0, start:, None]).sum())
            assert float(sample["resps"][number][0][0]) == pytest.approx(expected, abs=1e-3)
    quiet = run(door, random_model, eight_rows, tmp_path / "digits", "sst2_01_choice")
    assert "same token" not in quiet.stderr


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("backend", ["majority", "tfidf"])
def test_baseline_has_the_same_labels_whatever_the_variant_asks_for(variant, backend, door, tmp_path):
    rows = words_folder(tmp_path / "data")
    found = []
    for task in ("sst2_01", variant, f"{variant}_choice"):
        done = door(
            "run", f"--model={backend}", "--data_dir", rows, "-o", tmp_path / task, "--tasks", task, "--train_samples=8"
        )
        assert done.code == 0, done.stderr
        (record,) = read_runs(tmp_path / task)
        found.append(next(iter(record["counts"].values())))
    assert found[0] == found[1] == found[2]
    assert found[0]["not_following"] == {}


def test_classifier_has_the_same_labels_whatever_the_variant_asks_for(door, eight_rows, tmp_path):
    model = build_model(tmp_path / "model", "bert", head="SequenceClassification")
    run(door, model, eight_rows, tmp_path, "sst2_prompts")
    counts = [next(iter(record["counts"].values())) for record in read_runs(tmp_path)]
    assert len(counts) == 12
    assert all(each == counts[0] for each in counts)


def test_training_on_words_tells_the_words_apart_where_they_differ(speaking, built):
    task, tokenizer = built["sst2_01_words"], AutoTokenizer.from_pretrained(speaking)
    rows = [{"sentence": sentence, "label": label} for sentence, label in SENTENCES]
    for chat, (zero, one), tokens in (
        (False, (" negative", " positive"), [[" negative"], [" positive"]]),
        (True, ("negative", "positive"), [["n", "eg", "ative"], ["p", "os", "itive"]]),
    ):
        examples = encode_examples(task, tokenizer, rows, lambda row: render_prompt(task, row), chat)
        for example, row in zip(examples, rows, strict=True):
            assert [tokenizer.decode(ids[:-1]) for ids in example["completions"]] == [zero, one]
            assert example["labels"] == row["label"]
        batch = collate_prompts(examples, tokenizer.pad_token_id)
        assert batch["choices"].tolist() == [[tokenizer(pair[0])["input_ids"][0] for pair in tokens]] * len(rows)


def test_adapter_made_on_a_task_of_words_is_scored_on_it(door, random_model, elsewhere):
    included = f"include: {TASKS_DIR}/sst2_01/sst2_01_words.yaml"
    (elsewhere / "t.yaml").write_text(f"{included}\ntask: t\ndataset_kwargs:\n  embedded: sst2_01/mini\n")
    done = train(f"--model={random_model}", "-o", ".", "--task=t", "--include_path=.", *SHORT)
    assert done.code == 0, done.stderr
    ((adapter, made),) = adapters(elsewhere).items()
    assert made["task"] == "t"
    done = door("run", f"--adapter={adapter}", "-o", ".", "--limit=4", "--include_path=.")
    assert done.code == 0, done.stderr
    (record,) = read_runs(elsewhere)
    assert record["task"] == "t"
    assert record["trained_on"] is None


def test_format_tax_is_what_digits_cost_the_same_model_on_the_same_sentences():
    digits, words = manifest(correct=33), manifest(correct=545, task="sst2_01_words_choice")
    (line,) = advice.format_tax([digits, words])
    assert line == (
        "Format tax: +58.7 points (m scores 62.5 where it chooses between the words, 3.8 where it writes digits, sst2_01)."
    )
    assert advice.format_tax([digits]) == advice.format_tax([words]) == []
    assert advice.format_tax([digits, manifest(model="another", task="sst2_01_words_choice")]) == []
    assert advice.format_tax([digits, manifest(n=100, task="sst2_01_words_choice")]) == []
    assert advice.format_tax([digits | {"method": "tfidf"}, words | {"method": "tfidf"}]) == []


def test_format_tax_stands_under_the_table(door, speaking, eight_rows, tmp_path):
    both = run(door, speaking, eight_rows, tmp_path, "sst2_01_words_choice,sst2_01").stdout
    assert both.count("Format tax: ") == 1
    assert "Format tax" not in run(door, speaking, eight_rows, tmp_path, "sst2_01").stdout
