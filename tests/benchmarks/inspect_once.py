"""The same prompts through inspect_ai's Hugging Face provider: `python inspect_once.py MODEL DATA LIMIT`.

Prints docs/s and the answers as JSON. The provider always samples, so `top_k` of 1 makes it greedy; its chat template is
the prompt itself.
"""

import asyncio
import json
import sys
import time

from inspect_ai.model import GenerateConfig, get_model

from harness_ext.task.find import build_tasks
from harness_ext.task.prompts import render_prompt

AS_IT_IS = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def main() -> None:
    """Ask every prompt at once; the provider makes batches of 32."""
    model, data, limit = sys.argv[1], sys.argv[2], int(sys.argv[3])
    (task,) = build_tasks(["sst2_01"], metadata={"data_dir": data})
    task.set_config(key="num_fewshot", value=0)
    prompts = [render_prompt(task, document) for document in task.eval_docs.select(range(limit))]
    config = GenerateConfig(max_tokens=10, top_k=1, max_connections=32)
    lm = get_model("hf/local", config=config, model_path=model, tokenizer_path=model, device="cpu", chat_template=AS_IT_IS)

    async def ask() -> list[str]:
        return [answer.completion for answer in await asyncio.gather(*map(lm.generate, prompts))]

    start = time.perf_counter()
    answers = asyncio.run(ask())
    seconds = time.perf_counter() - start
    print(json.dumps({"docs_per_s": limit / seconds, "answers": answers}))


if __name__ == "__main__":
    main()
