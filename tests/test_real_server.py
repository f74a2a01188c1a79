"""A real server on loopback, `transformers serve`, answers as the same model loaded here."""

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from builders import CHAT_TEMPLATE, answering_model
from transformers.utils.import_utils import is_serve_available

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not is_serve_available(), reason="needs the extra: make setup EXTRAS=serve"),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model ``small``."""
    folder = tmp_path_factory.mktemp("served")
    # As Llama's, the template writes BOS: a server adds none to a chat, where lm-eval adds one that is missing.
    template = "{{ bos_token }}" + CHAT_TEMPLATE
    answering_model(folder / "small", "llama", chat_template=template, bos=True, context=1024)
    return folder


@pytest.fixture(scope="module")
def url(place: Path) -> Iterator[str]:
    """The address of a server that has loaded it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    serve = [sys.executable, "-m", "transformers.cli.transformers", "serve", "small", "--device", "cpu"]
    with (place / "log").open("w") as log:
        server = subprocess.Popen([*serve, "--host", "127.0.0.1", "--port", port], cwd=place, stdout=log, stderr=log)
    try:
        for _ in range(240):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                    break
            except OSError:
                assert server.poll() is None, (place / "log").read_text()
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(30)


@pytest.mark.parametrize(("backend", "template"), [("local-chat-completions", "true"), ("local-completions", "false")])
def test_transformers_serve_answers_every_document_as_the_model_loaded_here(backend, template, place, url, door, tmp_path):
    common = ("run", "--tasks=sst2_01_mini")
    served = door(
        *common, "--pretrained=small", f"--model={backend}", f"--base_url={url}", f"--output_path={tmp_path}/served"
    )
    assert served.code == 0, served.stderr
    local = ("--engine=stock", f"--pretrained={place / 'small'}", "--apply_chat_template", template)
    assert door(*common, *local, f"--output_path={tmp_path}/local").code == 0
    answers, labels, kinds = zip(*(outcome_of(tmp_path / name) for name in ("served", "local")), strict=True)
    assert answers[0] == answers[1]
    assert labels[0] == labels[1]
    assert kinds[0] == kinds[1]
    assert len(answers[0]) == 120 * 2, "every document, under both rules"
    assert set(labels[0]) > {"0", "1"}, "a model that answers one thing would prove little"


def outcome_of(out: Path) -> tuple[list[str], list[str], dict]:
    """Read responses and labels of all documents, and the counts by kind."""
    (folder,) = out.glob("runs/*")
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()]
    counts = json.loads((folder / "run.json").read_text(encoding="utf-8"))["counts"]
    return [row["resps"][0][0] for row in rows], [row["filtered_resps"][0] for row in rows], counts
