"""No token that is given to a command stands in anything it writes."""

import shlex
import sys

import pytest

from harness_ext.run.provenance import command
from harness_ext.run.redaction import hide, hide_in_command, secrets_in

TOKEN = "hf_AbCdEfGhIjKlMnOpQr"


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        (f"token={TOKEN}", "token=***"),
        (
            "--hf_hub_log_args=hub_results_org=me,token=plainword,public_repo=true",
            "hub_results_org=me,token=***,public_repo=true",
        ),
        (f"--args=--hf_hub_log_args token={TOKEN} --limit 4", "token=*** --limit 4"),
        ('{"auth_token": "abcdef", "timeout": 3}', '"auth_token": ***, "timeout": 3}'),
        ("header={'Authorization': 'Bearer abc'},timeout=3", "header=***,timeout=3"),
        ("--base_url=https://me:word@host/v1", "--base_url=https://***@host/v1"),
        (f"--pretrained={TOKEN}", "--pretrained=***"),
        ("--model_args=api_key=sk-abcdefghijkl", "api_key=***"),
        ('--metadata={"token": "abc"}', '"token": ***}'),
    ],
)
def test_secret_in_a_command_is_replaced(word, shown):
    assert hide_in_command(word).endswith(shown)
    assert shlex.split(command("harness_ext", ["run", word]))[-1].endswith(shown)


@pytest.mark.parametrize(
    "word",
    [
        "think_end_token=</think>",
        "add_bos_token=true",
        "prefix_token_id=3",
        "max_tokens=5",
        "--pretrained=org/token-model",
        "key=1",
    ],
)
def test_what_is_no_secret_stays(word):
    assert hide_in_command(word) == word


def test_secret_is_hidden_by_name_by_form_and_wherever_else_it_stands():
    known = secrets_in({"token": "open-sesame", "timeout": 3, "deep": {"header": {"Authorization": "Bearer s3cr3ts"}}})
    assert known == {"open-sesame", "Bearer s3cr3ts"}
    found = hide({"token": "x", "note": "say open-sesame", "list": [TOKEN, 3, None], "use_auth_token": True}, known)
    assert found == {"token": "***", "note": "say ***", "list": ["***", 3, None], "use_auth_token": True}


def test_no_file_of_a_run_holds_a_token(door, answering, eight_rows, elsewhere, monkeypatch):
    secrets = ("first-secret-word", "second-secret-word", TOKEN)
    words = [
        "run", "--pretrained", str(answering), "--data_dir", str(eight_rows), "--limit", "2",
        "--hf_hub_log_args", f"token={secrets[0]}", "--model_args", f"token={secrets[1]}", "--metadata",
        f'{{"auth_token": "{TOKEN}"}}',
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["x", *words])
    said = door(*words)
    assert said.code == 0, said.stderr
    written = [path for path in elsewhere.glob("results/**/*") if path.is_file()]
    assert len(written) >= 3
    for path in written:
        assert not [secret for secret in secrets if secret.encode() in path.read_bytes()], path
    assert not [secret for secret in secrets if secret in said.stderr + said.stdout]
