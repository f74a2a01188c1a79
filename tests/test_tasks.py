import re
import subprocess
import sys

import pytest
from lm_eval.tasks._yaml_loader import load_yaml

from harness_ext.errors import UserError
from harness_ext.paths import ROOT, TASKS_DIR
from harness_ext.task import find
from harness_ext.task.find import build_tasks, validate
from harness_ext.task.prompts import render_completion, render_prompt

TASK_FILES = sorted(TASKS_DIR.glob("**/*.yaml"))


@pytest.mark.parametrize("path", TASK_FILES, ids=lambda path: path.stem)
def test_every_task_file_loads(path):
    assert load_yaml(path)


@pytest.fixture
def data_dir(tmp_path):
    for file in ("train.tsv", "dev.tsv"):
        (tmp_path / file).write_text("sentence\tlabel\nawful {{ film }} \t0\nlovely\t1\n")
    return str(tmp_path)


@pytest.mark.parametrize("name", ["sst2_01", "sst2_01_think", "sst2_01_choice"])
def test_variants_ask_the_same_question(name, data_dir):
    (task,) = build_tasks([name], metadata={"data_dir": data_dir})
    document = task.eval_docs[0]
    assert render_prompt(task, document) == (
        "Does this sentence from a movie review express a positive or a negative opinion?\n"
        "Answer with 1 for positive or 0 for negative, and nothing else.\n\n"
        "Sentence: awful {{ film }}\nAnswer:"  # a sentence is text, never a template
    )
    assert render_completion(task, document) == " 0"
    assert render_completion(task, document, chat=True) == "0"


def test_mini_asks_the_same_question_without_any_data_given():
    (task,) = build_tasks(["sst2_01_mini"])
    assert len(task.eval_docs) == 120
    assert render_prompt(task, {"sentence": "x", "label": 0}).endswith("nothing else.\n\nSentence: x\nAnswer:")


def test_render_prompt_few_shot_examples_come_from_train_with_their_answers(data_dir):
    (task,) = build_tasks(["sst2_01"], metadata={"data_dir": data_dir})
    task.set_config(key="num_fewshot", value=2)
    task.set_fewshot_seed(0)
    shots = render_prompt(task, {"sentence": "x", "label": 0}).split("\n\nDoes")
    assert len(shots) == 3
    assert {shot.rsplit("Sentence: ")[1] for shot in shots[:2]} == {"awful {{ film }}\nAnswer: 0", "lovely\nAnswer: 1"}


def test_second_dataset_as_the_docs_show_it_is_a_dozen_lines_and_no_code(tmp_path):
    (yaml,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(yaml.splitlines()) <= 13
    (tmp_path / "tasks").symlink_to(TASKS_DIR)
    (tmp_path / "my_tasks").mkdir()
    (tmp_path / "my_tasks" / "cola_01.yaml").write_text(yaml)
    for file in ("train.tsv", "dev.tsv"):
        (tmp_path / file).write_text("sentence\tlabel\nThe boy ran.\t1\nBoy the ran.\t0\n")
    (task,) = build_tasks(["cola_01"], str(tmp_path / "my_tasks"), {"data_dir": str(tmp_path)})
    document = task.eval_docs[0]
    assert render_prompt(task, document).endswith("nothing else.\n\nSentence: The boy ran.\nAnswer:")
    assert render_completion(task, document) == " 1"
    predictions = {ensemble.name: ensemble.filters[0]().apply([["unacceptable"]], [{}]) for ensemble in task._filters}
    assert predictions == {"lenient": ["[word]"], "strict": ["[word]"]}


def test_build_tasks_unknown_name_lists_near_misses():
    with pytest.raises(UserError, match="sst2_01_mini"):
        build_tasks(["sst2_01_mimi"])


def test_build_tasks_broken_file_is_named_with_its_reason(tmp_path):
    (tmp_path / "broken_01.yaml").write_text("task: broken_01\ninclude: nowhere.yaml\n")
    with pytest.raises(UserError, match=r"broken_01\.yaml does not load: FileNotFoundError"):
        build_tasks(["broken_01.yaml"], str(tmp_path))


def test_validate_says_what_it_built_and_rendered(capsys):
    validate(["sst2_01_mini"])
    said = capsys.readouterr().out
    assert "sst2_01_mini: 120 documents (embedded sst2_01/mini/dev.tsv)" in said
    assert "answer ' 0'" in said


def test_validate_task_that_does_not_render_is_an_error(tmp_path):
    (tmp_path / "t.yaml").write_text(
        f"include: {TASKS_DIR}/sst2_01/sst2_01_mini.yaml\ntask: t\ndoc_to_text: '{{{{ 1 / 0 }}}}'\n"
    )
    with pytest.raises(UserError, match="division by zero"):
        validate(["t"], str(tmp_path))


def test_our_tasks_are_found_without_indexing_lm_evals():
    code = (
        "from lm_eval.tasks._index import TaskIndex\n"
        "build = TaskIndex.build\n"
        "def watched(self, paths, **more):\n"
        "    assert not any('lm_eval' in str(path) for path in paths), paths\n"
        "    return build(paths, **more)\n"
        "TaskIndex.build = watched\n"
        "from harness_ext.__main__ import main\n"
        "raise SystemExit(main(['validate', '--tasks', 'sst2_01_mini']) + main(['ls']))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize("name", ["urgent_01", "tickets_*"])
def test_name_that_none_of_lm_evals_files_mentions_is_unknown_at_once(name, elsewhere, monkeypatch):
    monkeypatch.setattr(find.TaskManager, "__init__", _only_ours(find.TaskManager.__init__))
    with pytest.raises(UserError, match=r"Unknown task .*TASK=folder/task\.yaml"):
        build_tasks([name])


def test_file_of_an_unknown_tasks_name_is_named(elsewhere, monkeypatch):
    monkeypatch.setattr(find.TaskManager, "__init__", _only_ours(find.TaskManager.__init__))
    (elsewhere / "my_tasks").mkdir()
    file = elsewhere / "my_tasks" / "urgent_01.yaml"
    file.write_text(f"include: {TASKS_DIR}/sst2_01/sst2_01_mini.yaml\ntask: urgent_01\n")
    with pytest.raises(UserError, match=r"say TASK=my_tasks/urgent_01\.yaml\."):
        build_tasks(["urgent_01"])
    assert [task.task_name for task in build_tasks(["my_tasks/urgent_01.yaml"])] == ["urgent_01"]


@pytest.mark.parametrize("name", ["sst2", "mmlu_abstract_*", "acp_bench", "egymmlu_arabic_language_(general)", "ai2_arc"])
def test_lm_evals_own_tasks_groups_and_tags_are_seen_in_its_files(name):
    assert find._is_mentioned(name)


def _only_ours(init):
    def watched(self, *args, **more):
        assert more.get("include_defaults") is False, "lm-eval's tasks are indexed"
        init(self, *args, **more)

    return watched
