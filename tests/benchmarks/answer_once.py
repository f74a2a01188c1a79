"""One measured evaluation: `python answer_once.py ours|stock|vllm MODEL DATA OUT [batch=8] [limit=100] [shots=16] ...`.

`think=yes` puts the question to a model that thinks, and draws its tokens; `adapter=FOLDER` is for ours.

Runs the real command line of this project or of lm-eval, whole, and prints JSON: documents a second while requests are
answered, seconds from the start of the process to the first answer and to the end, peak memory, and where the log is.
"""

import sys
import time

START = time.perf_counter()

import json  # noqa: E402
import os  # noqa: E402
from pathlib import Path  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
SYSTEM = (
    "You read reviews of films with care, and say what the writer thinks."  # makes it about 50 tokens that all prompts share
)


def watch(seen: dict) -> None:
    """Time requests and the first answer, wherever it is written down."""
    from lm_eval.api.model import CacheHook
    from lm_eval.models.huggingface import HFLM

    add, answer = CacheHook.add_partial, HFLM.generate_until

    def added(self, *args):
        seen.setdefault("first_answer_s", time.perf_counter() - START)
        return add(self, *args)

    def timed(function):
        def generate_until(self, requests, **kwargs):
            begun = time.perf_counter()
            try:
                return function(self, requests, **kwargs)
            finally:
                seen["answer_s"] = time.perf_counter() - begun
                seen["docs_per_s"] = len(requests) / seen["answer_s"]

        return generate_until

    CacheHook.add_partial = added
    if sys.argv[1] == "stock":
        HFLM.generate_until = timed(answer)
    elif sys.argv[1] == "vllm":
        from lm_eval.models.vllm_causallms import VLLM

        VLLM.generate_until = timed(VLLM.generate_until)
    else:
        from harness_ext.backend.answer import AnswerLM

        AnswerLM.generate_until = timed(AnswerLM.generate_until)  # type: ignore[method-assign]


def give_stock_the_same_examples(shots: str) -> None:
    """Let every task of lm-eval have our examples for SEED=0 before each document, instead of others before each."""
    from lm_eval.api.task import ConfigurableTask

    from harness_ext.run.examples import put_before
    from harness_ext.task.subsets import draw

    build = ConfigurableTask.__init__

    def build_and_put(self, *args, **kwargs):
        build(self, *args, **kwargs)
        put_before(self, draw(self.dataset["train"]["label"][:], shots, 0), 0)

    ConfigurableTask.__init__ = build_and_put


def main() -> None:
    """Run one side."""
    side, model, data, out = sys.argv[1:5]
    given = dict(word.split("=") for word in sys.argv[5:])
    seen: dict = {}
    os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    os.chdir(ROOT)
    common = ["--tasks", "sst2_01_think" if "think" in given else "sst2_01", "--output_path", out]
    common += [word for name in ("limit",) if name in given for word in (f"--{name}", given[name])]
    common += ["--system_instruction", SYSTEM] if "system" in given else []
    if "tokens" in given:
        common += ["--gen_kwargs", f"max_gen_toks={given['tokens']}"]
    if "think" in given:
        common += ["--gen_kwargs", "do_sample=true,temperature=1.0,top_k=0,max_gen_toks=1024"]
    if side in ("ours", "vllm"):
        from harness_ext.__main__ import main as run

        batch = ["--batch_size", given["batch"]] if "batch" in given else []
        dtype = ["--dtype", given["dtype"]] if "dtype" in given else []
        watch(seen)
        common += ["--shots", given["shots"], "--seeds", "0"] if "shots" in given else []
        common += ["--adapter", given["adapter"]] if "adapter" in given else []
        sys.argv = ["harness_ext", "run", "--pretrained", model, "--data_dir", data, "--force", *common, *batch, *dtype]
        sys.argv += ["--device", given.get("device", "cpu")] + (["--model", "vllm"] if side == "vllm" else [])
        assert run() == 0
    else:
        from lm_eval.__main__ import cli_evaluate

        watch(seen)
        if "shots" in given:
            give_stock_the_same_examples(given["shots"])
            common += ["--num_fewshot", given["shots"]]
        arguments = f"pretrained={model}" + (f",dtype={given['dtype']}" if "dtype" in given else "")
        common += (
            ["--apply_chat_template", "--fewshot_as_multiturn"] if "chat" in given else []
        )  # ours does where there is one
        device = given.get("device", "cpu")
        sys.argv = [
            "lm-eval", "run", "--model", "hf", "--model_args", arguments, "--include_path", "tasks", "--device", device,
            "--batch_size", given.get("batch", "32"), "--log_samples", "--metadata", json.dumps({"data_dir": data}), *common,
        ]  # fmt: skip
        cli_evaluate()
    from harness_ext.model.memory import peak_memory_bytes

    seen["wall_s"] = time.perf_counter() - START
    seen["peak_bytes"] = peak_memory_bytes()["process"]
    print("\n" + json.dumps(seen))


if __name__ == "__main__":
    main()
