"""The shared-prefix engine against stock lm-eval: other work, the same answers, whatever the model and the batches."""

import itertools
import json
from functools import partial

import pytest
import torch
from builders import CHAT_TEMPLATE, SENTENCES, THINKING_TEMPLATE, answering_model, build_model, tsv_folder
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lm_eval.api.instance import Instance
from prompting import PROMPTS, answer_lm, write_until
from stock import assert_same_answers, samples_of, stock_samples
from transformers import AutoModelForCausalLM

from harness_ext.backend import batches, selfcheck, writing
from harness_ext.backend.ending import Ending
from harness_ext.backend.engine import PrefixReader, Row, write
from harness_ext.backend.forced_choice import ForcedChoice
from harness_ext.backend.next_token import NextToken
from harness_ext.model import memory
from harness_ext.results.records import read_runs
from harness_ext.task.labels import is_settled, read
from harness_ext.task.prompts import common_prefix

CPU = torch.device("cpu")
ARCHITECTURES = ("qwen2", "qwen3", "llama", "gemma3", "gpt2")


def run(door, model, data, out, *more):
    done = door("run", "--pretrained", model, "--data_dir", data, "-o", out, *more)
    assert done.code == 0, done.stderr
    return samples_of(out), read_runs(out)[0]


@pytest.mark.parametrize(
    ("architecture", "chat", "num_fewshot"),
    [
        *((architecture, False, 0) for architecture in ARCHITECTURES),
        ("qwen2", True, 0),
        ("llama", True, 4),
        ("gemma3", False, 4),
        *(
            pytest.param(architecture, chat, num_fewshot, marks=pytest.mark.slow)
            for architecture in ARCHITECTURES
            for chat, num_fewshot in ((True, 0), (False, 4), (True, 4))
        ),
    ],
)
def test_run_answers_as_stock_lm_eval_does(architecture, chat, num_fewshot, door, eight_rows, tmp_path):
    model = answering_model(tmp_path / "model", architecture, chat_template=CHAT_TEMPLATE if chat else None, context=1024)
    ours, record = run(door, model, eight_rows, tmp_path, "--num_fewshot", num_fewshot)
    assert_same_answers(ours, stock_samples(model, eight_rows, "sst2_01", chat=chat, num_fewshot=num_fewshot))
    assert {sample["arguments"]["gen_args_0"]["arg_0"].startswith("<|im_start|>") for sample in ours} == {chat}
    engine = record["engine"]
    assert engine["path"] == "shared prefix"
    assert engine["prefix_tokens"] > 20
    assert engine["stopped_when_settled"] > 0
    assert record["tokens"]["out"] < 8 * 10


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_run_chooses_as_stock_lm_eval_does(architecture, door, eight_rows, tmp_path):
    model = answering_model(tmp_path / "model", architecture, context=1024)
    ours, record = run(door, model, eight_rows, tmp_path, "--tasks", "sst2_01_choice")
    assert_same_answers(ours, stock_samples(model, eight_rows, "sst2_01_choice"))
    assert (record["engine"]["path"], record["engine"]["from_generation"]) == ("shared prefix", 0)


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_run_model_that_never_answers_writes_all_that_stock_lm_eval_writes(architecture, door, eight_rows, tmp_path):
    model = build_model(tmp_path / "model", architecture, seed=5)
    ours, _ = run(door, model, eight_rows, tmp_path)
    stock = stock_samples(model, eight_rows, "sst2_01")
    assert_same_answers(ours, stock)
    lenient = [(mine, theirs) for mine, theirs in zip(ours, stock, strict=True) if theirs["filter"] == "lenient"]
    never = [(mine, theirs) for mine, theirs in lenient if theirs["filtered_resps"][0] not in ("0", "1")]
    assert never
    assert all(mine["resps"] == theirs["resps"] for mine, theirs in never)


def test_run_answers_do_not_depend_on_the_batches(door, tmp_path):
    rows = [(f"{sentence} {'very ' * number}", label) for number, (sentence, label) in enumerate(SENTENCES * 3)]
    data = tsv_folder(tmp_path / "data", rows)
    model = answering_model(tmp_path / "model", "qwen3", context=1024)
    logs = [run(door, model, data, tmp_path / str(size), "-b", size)[0] for size in (1, 8, 64, "auto")]
    assert all(log == logs[0] for log in logs)


def test_run_window_shorter_than_the_prompts_is_looked_through(door, tmp_path):
    rows = [(f"{sentence} {'very ' * number}", label) for number, (sentence, label) in enumerate(SENTENCES)]
    data = tsv_folder(tmp_path / "data", rows)
    model = answering_model(tmp_path / "model", "gemma3", sliding_window=16, context=1024)
    ours, record = run(door, model, data, tmp_path)
    assert_same_answers(ours, stock_samples(model, data, "sst2_01"))
    assert record["engine"]["path"] == "shared prefix"


def test_run_stock_engine_and_beams_take_the_stock_path_and_say_so(door, answering, eight_rows, tmp_path):
    ours, record = run(door, answering, eight_rows, tmp_path / "stock", "--engine", "stock")
    assert record["engine"] == {"path": "stock", "why": "ENGINE=stock"}
    assert ours == stock_samples(answering, eight_rows, "sst2_01")
    _, record = run(door, answering, eight_rows, tmp_path / "beams", "--gen_kwargs", "num_beams=2")
    assert record["engine"] == {"path": "stock", "why": "generation setting num_beams"}


def test_requests_of_several_settings_go_the_stock_path_and_say_so(answering):
    def asked(number):
        return Instance("generate_until", {}, (PROMPTS[0], {"until": [], "max_gen_toks": 1 + number}), 0, ("t", number, 1))

    lm = answer_lm(answering)
    together = lm.generate_until([asked(number) for number in range(3)])
    assert lm.account.path == {"path": "stock", "why": "several generation settings"}
    assert together == [answer_lm(answering).generate_until([asked(number)])[0] for number in range(3)]


@pytest.mark.parametrize("name", ["repetition_penalty", "no_repeat_ngram_size"])
def test_run_generation_config_is_followed(name, door, eight_rows, tmp_path):
    model = build_model(tmp_path / "model", "llama", seed=5)
    path = model / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: {"repetition_penalty": 1.3}.get(name, 2)}))
    ours, record = run(door, model, eight_rows, tmp_path / "ours")
    plain, _ = run(door, model, eight_rows, tmp_path / "stock", "--engine", "stock", "-b", 1)
    assert record["engine"]["path"] == "shared prefix"
    assert_same_answers(ours, plain)


def test_run_stop_strings_cut_as_in_stock_lm_eval(door, random_model, eight_rows, tmp_path):
    whole, _ = run(door, random_model, eight_rows, tmp_path / "whole")
    stop = whole[0]["resps"][0][0][2:4]
    assert stop.strip()
    settings = ("--gen_kwargs", f"until={stop}")
    ours, record = run(door, random_model, eight_rows, tmp_path / "ours", *settings)
    stock, _ = run(door, random_model, eight_rows, tmp_path / "stock", *settings, "--engine", "stock")
    assert record["engine"]["path"] == "shared prefix"
    assert_same_answers(ours, stock)
    assert len(ours[0]["resps"][0][0]) <= 3


def test_run_adapter_merged_answers_as_stock_does_with_it_on_top(door, answering, eight_rows, tmp_path):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(AutoModelForCausalLM.from_pretrained(answering), config).save_pretrained(tmp_path / "adapter")
    ours, _ = run(door, answering, eight_rows, tmp_path / "ours", "--adapter", tmp_path / "adapter")
    assert_same_answers(ours, stock_samples(answering, eight_rows, "sst2_01", peft=str(tmp_path / "adapter")))
    base, _ = run(door, answering, eight_rows, tmp_path / "base")
    assert [sample["resps"] for sample in base] != [sample["resps"] for sample in ours]


def test_run_thinking_stops_only_when_it_has_closed(door, eight_rows, tmp_path):
    model = answering_model(tmp_path / "model", "llama", chat_template=THINKING_TEMPLATE)
    flags = ("--tasks", "sst2_01_think", "--think_budget", 6)
    ours, record = run(door, model, eight_rows, tmp_path / "ours", *flags)
    stock, _ = run(door, model, eight_rows, tmp_path / "stock", *flags, "--engine", "stock")
    assert_same_answers(ours, stock)
    assert record["key_parts"]["generation"]["max_gen_toks"] == 6
    assert all(len(sample["resps"][0][0]) > 6 for sample in ours)  # "1" alone would settle it, were it not for thinking


def test_run_both_questions_reads_the_prompts_once(door, answering, eight_rows, tmp_path):
    both = ("--tasks", "sst2_01_choice,sst2_01")
    assert door("run", "--pretrained", answering, "--data_dir", eight_rows, "-o", tmp_path / "both", *both).code == 0
    runs = {record["task"]: record for record in read_runs(tmp_path / "both")}
    assert runs["sst2_01_choice"]["engine"] == {"path": "shared prefix", "from_generation": 16}
    assert runs["sst2_01_choice"]["docs_per_s"] is None  # it cost nothing of its own
    alone, record = run(door, answering, eight_rows, tmp_path / "alone", "--tasks", "sst2_01_choice")
    (log,) = (tmp_path / "both").glob("runs/*choice*/samples.jsonl")
    assert_same_answers([json.loads(line) for line in log.read_text().splitlines()], alone)
    assert record["docs_per_s"] > 0


def test_forced_choice_sees_continuations_of_several_tokens_as_far_as_they_are_written(random_model):
    model = AutoModelForCausalLM.from_pretrained(random_model).eval()
    prompt = [5, 6, 7, 8]
    with torch.inference_mode():
        first = int(model(torch.tensor([prompt])).logits[0, -1].argmax())
        choices = [[first, 20], [first, 21], [first + 1, 20], [22]]
        forced = ForcedChoice()
        reader = PrefixReader(model, torch.device("cpu"), prompt[:2])
        watch = forced.watcher(reader.prefix, choices)
        greedy = NextToken(reader)

        def choose(rows, logits):
            watch(rows, logits)
            return greedy(rows, logits)

        room = batches.Room(CPU, model, lambda width: 0)
        write(reader, [Row(0, prompt[2:])], choose, lambda row: len(row.written) == 3, lambda row: None, room)
        for tokens in (choices[0], choices[1], choices[3]):
            logits = model(torch.tensor([[*prompt, *tokens[:-1]]])).logits[0, len(prompt) - 1 :]
            expected = logits.log_softmax(-1).gather(1, torch.tensor(tokens)[:, None]).sum().item()
            seen = forced.found(prompt, tokens)
            assert seen is not None
            score, is_greedy = seen
            assert score == pytest.approx(expected, abs=1e-4)
            assert is_greedy == (logits.argmax(-1).tolist() == tokens)
    assert forced.found(prompt, choices[2]) is None  # the model went another way
    assert forced.found([1, 2], choices[3]) is None


def test_run_short_of_memory_halves_the_batch_and_loses_nothing(door, answering, eight_rows, tmp_path, monkeypatch):
    whole, _ = run(door, answering, eight_rows, tmp_path / "whole")
    ask, sizes = PrefixReader._ask, []

    def short(self, rows, now, keep):
        sizes.append(len(rows))
        if len(rows) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return ask(self, rows, now, keep)

    monkeypatch.setattr(PrefixReader, "_ask", short)
    halved, record = run(door, answering, eight_rows, tmp_path / "halved")
    assert halved == whole
    assert record["engine"]["halved_for_memory"] >= 1
    assert max(sizes) == 8


def test_run_short_of_memory_while_writing_keeps_the_answers_of_rows_that_were_done(
    door, answering, eight_rows, tmp_path, monkeypatch
):
    def half_end_at_once(reader, rows, choose, is_done, *more):
        write(reader, rows, choose, lambda row: row.number % 2 == 0 or len(row.written) == 9, *more)

    monkeypatch.setattr(writing, "write", half_end_at_once)
    whole, _ = run(door, answering, eight_rows, tmp_path / "whole")
    step = PrefixReader.step
    shortages: list[int] = []

    def short(self, tokens, places):
        if len(tokens) == 4 and not shortages:
            shortages.append(len(tokens))
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return step(self, tokens, places)

    monkeypatch.setattr(PrefixReader, "step", short)
    halved, record = run(door, answering, eight_rows, tmp_path / "halved")
    assert record["engine"]["halved_for_memory"] == 1
    assert halved == whole


def test_run_single_row_that_does_not_fit_the_memory_is_one_line(door, answering, eight_rows, tmp_path, monkeypatch):
    def short(self, rows, now, keep):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(PrefixReader, "_ask", short)
    assert "Out of memory" in door("run", "--pretrained", answering, "--data_dir", eight_rows, "-o", tmp_path).error


def test_write_rows_interrupted_for_memory_go_on_where_they_were(random_model):
    model = AutoModelForCausalLM.from_pretrained(random_model).eval()
    with torch.inference_mode():
        reader = PrefixReader(model, torch.device("cpu"), [5, 6, 7])
        whole = Row(0, [8, 9, 10])
        write_until(reader, [whole], lambda row: len(row.written) == 9)
        begun = Row(0, [8, 9, 10], written=whole.written[:4])
        write_until(reader, [begun, Row(1, [11])], lambda row: len(row.written) >= 9)
    assert begun.written == whole.written


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_write_greedy_tokens_are_those_of_transformers_own_generate(architecture, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(build_model(tmp_path / "model", architecture)).eval()
    model.generation_config.eos_token_id = None
    prompts = [[20, 21, 22, 23, 30], [20, 21, 22, 23, 31, 32, 33], [20, 21, 22, 23, 40, 41]]
    prefix = common_prefix(prompts)
    assert prefix == [20, 21, 22, 23]
    with torch.inference_mode():
        rows = [Row(number, prompt[4:]) for number, prompt in enumerate(prompts)]
        write_until(PrefixReader(model, CPU, prefix), rows, lambda row: len(row.written) == 3 + 4 * row.number)
        for row, prompt in zip(rows, prompts, strict=True):
            plain = model.generate(torch.tensor([prompt]), max_new_tokens=len(row.written), do_sample=False, pad_token_id=0)
            assert plain[0, len(prompt) :].tolist() == row.written


def behind(model, prefix, rows):
    return selfcheck.read_behind(PrefixReader(model, CPU, prefix), [row[len(prefix) :] for row in rows])


def test_reader_that_misreads_its_prefix_is_noticed(random_model):
    model = AutoModelForCausalLM.from_pretrained(random_model).eval()
    with torch.inference_mode():
        rows = [[5, 6, 7, 8], [5, 6, 7, 9, 10, 11]]
        for prefix, passes in (([5, 6, 7], True), ([5, 6, 8], False)):
            found = selfcheck.examine(model, CPU, rows, partial(behind, model, prefix))
            assert found["passed"] is passes


def test_run_architecture_without_a_usable_cache_falls_back_and_says_so(door, answering, eight_rows, tmp_path, monkeypatch):
    shared_way = selfcheck.shared_way

    def wrong_way(*args):
        return [(written, logits.roll(1)) for written, logits in shared_way(*args)]

    monkeypatch.setattr(selfcheck, "shared_way", wrong_way)
    for task, out in (("sst2_01", "answers"), ("sst2_01_choice", "choices")):
        ours, record = run(door, answering, eight_rows, tmp_path / out, "--tasks", task)
        assert record["engine"] == {"path": "stock", "why": "the model cannot read a shared prefix"}
        assert_same_answers(ours, stock_samples(answering, eight_rows, task))


@pytest.mark.parametrize(
    ("rows", "prefix"),
    [
        ([[1, 2, 3], [1, 2, 4]], [1, 2]),
        ([[1, 2, 3]], [1, 2]),
        ([[1, 2], [1, 2, 3]], [1]),  # each row keeps a token of its own
        ([[1], [2]], []),
        ([[7, 1], [7, 1]], [7]),
    ],
)
def test_common_prefix_leaves_each_row_a_token(rows, prefix):
    assert common_prefix(rows) == prefix


def test_room_follows_tokens_memory_and_the_user(monkeypatch):
    nothing = torch.nn.Linear(1, 1, bias=False)  # 4 bytes
    monkeypatch.setattr(memory, "total", lambda device: 1_000_004)

    def room(row_bytes, **options):
        return batches.Room(CPU, nothing, lambda width: row_bytes * width, **options)

    tokens = batches.TOKENS["cpu"]
    assert room(1).to_read(64) == tokens // 64
    assert room(1, limit=3).to_read(64) == room(1, limit=3).to_write(64) == 3
    assert room(1).to_read(10**6) == 1
    assert room(900, kept_bytes=100).to_read(100) == 6  # 0.6 of the memory, 100 kB a row
    assert room(0, kept_bytes=100).to_write(100) == 60


def test_run_in_batches_lets_other_errors_pass():
    def fail(batch):
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        batches.run_in_batches([[1]], fail, length=len, room=batches.Room(CPU, torch.nn.Linear(1, 1), lambda width: 1))


@pytest.fixture(scope="module")
def tokenizer():
    from builders import build_tokenizer

    return build_tokenizer("llama", lines=["<think>0</think>1 。😀 positive", "é1"])


def grown(ending, tokens):
    """Return how many tokens are written before an answer is at its end."""
    written: list[int] = []
    for token in tokens:
        written.append(token)
        if ending.is_reached([], written):
            break
    return len(written)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_ending_that_remembers_thinking_ends_where_reading_all_at_each_token_does(tokenizer, data):
    parts = [
        "<think>",
        "</think>",
        "1",
        " 0.",
        "<|channel|>",
        "final",
        "<|message|>",
        "hm 1 or 0",
        "analysis",
        "assistantfinal",
    ]
    text = "".join(data.draw(st.lists(st.sampled_from(parts), min_size=1, max_size=40)))
    tokens = tokenizer.encode(text) + data.draw(st.lists(st.integers(5, len(tokenizer) - 1), max_size=30))
    settled = partial(is_settled, thinking=True)
    remembers = Ending(tokenizer, tokenizer.decode, ends=set(), stops=[], limit=len(tokens), settled=settled)
    forgets = Ending(tokenizer, tokenizer.decode, ends=set(), stops=[], limit=len(tokens), settled=settled)
    forgets._still_thinks = lambda written: False  # type: ignore[method-assign]
    assert grown(remembers, tokens) == grown(forgets, tokens)


def test_long_thinking_full_of_digits_is_read_once(tokenizer):
    tokens = tokenizer.encode("<think>" + "1 0 " * 400)
    read_tokens = 0

    def decode(part):
        nonlocal read_tokens
        read_tokens += len(part)
        return tokenizer.decode(part)

    settled = partial(is_settled, thinking=True)
    assert grown(Ending(tokenizer, decode, ends=set(), stops=[], limit=10**6, settled=settled), tokens) == len(tokens)
    assert read_tokens < 40 * len(tokens)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_settled_token_stream_reads_the_same_to_its_end(tokenizer, data):
    """Random tokens, bytes of half characters among them: from where it is settled on, nothing changes the reading."""
    tokens = data.draw(st.lists(st.integers(0, len(tokenizer) - 1), max_size=24))
    tokens += tokenizer.encode(data.draw(st.sampled_from(["1", " 0", "<think>1</think>0.", "1。", "😀1", ""])))
    tokens += data.draw(st.lists(st.integers(0, len(tokenizer) - 1), max_size=24))
    for rule, thinking in itertools.product(("lenient", "strict"), (False, True)):
        whole = read(tokenizer.decode(tokens), rule, thinking=thinking)
        for end in range(len(tokens)):
            text = tokenizer.decode(tokens[:end])
            if is_settled(text, rule, thinking=thinking):
                assert read(text, rule, thinking=thinking) == whole
                break
