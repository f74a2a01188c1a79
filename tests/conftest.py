"""What every test may use: two ways to call the command line, and the cheapest model and data set.

The environment is set before anything imports a Hugging Face library: offline, one thread, an empty cache, so that
no test depends on what the machine holds or reaches.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import quick

if TYPE_CHECKING:
    from harness_ext.results.runs import Run
    from harness_ext.results.standings import Entry

ROOT = Path(__file__).resolve().parent.parent
_HF_HOME = tempfile.mkdtemp(prefix="hf-home-")
_UNSET = ("HF_", "HUGGING", "TRANSFORMERS_", "DATASETS_", "LMEVAL_", "LM_HARNESS_", "MAKE", "MFLAGS")
for _name in [name for name in os.environ if name.startswith(_UNSET)]:
    del os.environ[_name]
os.environ |= {
    "HF_HOME": _HF_HOME,
    "XDG_CACHE_HOME": _HF_HOME,  # hashes of weights are kept there
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "TQDM_DISABLE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONUTF8": "1",
}


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str
    modules: frozenset[str] = frozenset()  # imported by then, at the top, where a process of its own says so

    @property
    def error(self) -> str:
        """The one error line of a command that met bad input; fails the test if it is not one line."""
        assert self.code == 2, f"exit code {self.code}\n{self.stdout}\n{self.stderr}"
        assert "Traceback" not in self.stderr + self.stdout
        errors = [line for line in self.stderr.splitlines() if line.startswith("Error: ")]
        assert len(errors) == 1, self.stderr
        assert self.stderr.rstrip("\n").endswith(errors[0]), f"more follows the error line: {self.stderr}"
        return errors[0]


def pytest_configure() -> None:
    quick.start()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    quick.settle()


def pytest_unconfigure() -> None:
    shutil.rmtree(_HF_HOME, ignore_errors=True)


@pytest.hookimpl(optionalhook=True)  # pytest-benchmark may not be there
def pytest_benchmark_update_json(output_json: dict[str, Any]) -> None:
    """Leave every single timing and the machine's names out of results/bench.json."""
    for name in ("node", "release"):
        output_json["machine_info"].pop(name, None)
    for benchmark in output_json["benchmarks"]:
        benchmark["stats"].pop("data", None)


@pytest.fixture
def door(capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Call the command line in this process: ``door("run", "--limit=4")``. An unexpected exception fails the test."""
    from harness_ext.__main__ import main

    def call(*argv: str | Path) -> Outcome:
        capfd.readouterr()
        try:
            code = main([str(word) for word in argv])
        except SystemExit as left:  # --help
            code = int(left.code or 0)
        said = capfd.readouterr()
        return Outcome(code, said.out, said.err)

    return call


@pytest.fixture
def cli(tmp_path: Path) -> Callable[..., Outcome]:
    """Call the command line in a process of its own, in a temporary folder: ``cli("run", "--limit=4", env=...)``."""

    def call(*argv: str | Path, env: dict[str, str] | None = None, cwd: Path = tmp_path, timeout: float = 120) -> Outcome:
        command = [sys.executable, "-m", "harness_ext", *map(str, argv)]
        environment = dict(os.environ) if env is None else env
        done = subprocess.run(
            command, cwd=cwd, env=environment, timeout=timeout, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    return call


@pytest.fixture
def results(tmp_path: Path) -> Any:
    """Write finished runs: ``results("model", [1, 0, -1])`` has the first document right and no label for the third."""
    from fakeresults import FakeResults

    return FakeResults(tmp_path / "results")


@pytest.fixture(scope="session")
def published_runs(tmp_path_factory: pytest.TempPathFactory) -> "list[Run]":
    """The runs in results/published, without those that someone has made here."""
    from harness_ext.results import runs

    out = tmp_path_factory.mktemp("results")
    (out / "published").symlink_to(ROOT / "results" / "published")
    return runs.read_all(out)


@pytest.fixture(scope="session")
def published_entries(published_runs: "list[Run]") -> "list[Entry]":
    """The leaderboard of them."""
    from harness_ext.results.standings import entries

    return entries(published_runs)


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let matplotlib draw: elsewhere its files stay empty."""
    monkeypatch.setattr(quick, "draws", True)


EACH_IN_TURN = """
import contextlib, io, json, sys
from harness_ext.__main__ import main
ends = []
for argv in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        try: code = main(argv)
        except SystemExit as left: code = left.code or 0
    ends.append([code, out.getvalue(), err.getvalue(), sorted({name.partition(".")[0] for name in sys.modules})])
json.dump(ends, sys.stdout)
"""


@pytest.fixture
def in_turn(tmp_path: Path) -> Callable[..., list[Outcome]]:
    """Call several commands one after the other in one process of its own, which imports what they need once."""

    def call(commands: list[list[str]], env: dict[str, str] | None = None) -> list[Outcome]:
        command = [sys.executable, "-c", EACH_IN_TURN, json.dumps(commands)]
        done = subprocess.run(command, cwd=tmp_path, env=env, timeout=120, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return [Outcome(code, out, err, frozenset(names)) for code, out, err, names in json.loads(done.stdout)]

    return call


@pytest.fixture(scope="session")
def shared() -> Path:
    """The read-only folder beside the repository with SST-2 and a small real model."""
    folder = ROOT.parent / "shared"
    if not (folder / "data" / "sst2").is_dir():
        pytest.skip(f"needs SST-2 and stories260K in {folder}")
    return folder


@pytest.fixture(scope="session")
def real_models() -> Path:
    """The folder with all-MiniLM-L6-v2 and SmolLM2-135M-Instruct in the Hub's layout."""
    folder = os.environ.get("REAL_MODELS")
    if not folder:
        pytest.skip("needs pretrained models in the folder that REAL_MODELS= names")
    return Path(folder).resolve()


@pytest.fixture(scope="session")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen2 of random weights without a chat template. Copy it before changing it."""
    from builders import build_model

    return build_model(tmp_path_factory.mktemp("models") / "random")


@pytest.fixture(scope="session")
def answering(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that answers " 0" or " 1", depending on the sentence. Copy it before changing it."""
    from builders import answering_model

    return answering_model(tmp_path_factory.mktemp("models") / "answering", "llama")


@pytest.fixture(scope="session")
def eight_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.tsv and dev.tsv of the eight rows in `builders.SENTENCES`."""
    from builders import tsv_folder

    return tsv_folder(tmp_path_factory.mktemp("data") / "eight")


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary working folder, so that relative paths and the default OUT stay out of the repository."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
