"""What is asked of training, as data: read from the command line or Python alike, JSON and back, planned without a trace."""

import json
import sys
from dataclasses import asdict, fields

import pytest
from training import words_folder

import finetune.__main__
from finetune.plan import make_plan
from finetune.spec import TrainSpec, make_spec, read_spec
from harness_ext.errors import UserError


def read(*argv):
    return read_spec(finetune.__main__.train_parser().parse_args(list(argv)))


def test_nothing_said_is_the_default_spec():
    assert read() == TrainSpec() == make_spec(samples=64, seeds=0)


def test_command_line_and_python_give_the_same_spec():
    said = read(
        "--samples=16,all", "--seed=0,3", "--model=m", "--recipe=tiny", "--set=rank=4", "--set=alpha=8", "--task=t",
        "--data=d", "--text=a", "--label=b", "--positive=c", "--test=0.3", "--question=q", "--include_path=i",
        "--device=cpu", "--dtype=float32", "-o", "out", "--report_to=wandb,trackio",
        "--allow_pickle", "--force", "--rows=sentences",
    )  # fmt: skip
    given = make_spec(
        samples=(16, "all"), seeds=[0, 3], model="m", recipe="tiny", overrides=["rank=4", "alpha=8"], task="t", data="d",
        text="a", label="b", positive="c", test=0.3, question="q", include_path="i", device="cpu", dtype="float32",
        out="out", report_to=("wandb", "trackio"), allow_pickle=True, force=True, rows="sentences",
    )  # fmt: skip
    assert said == given
    assert (said.samples, said.seeds, said.report_to) == (("16", "all"), (0, 3), ("wandb", "trackio"))
    unread = [field.name for field in fields(TrainSpec) if getattr(said, field.name) == field.default]
    assert unread == ["data_dir"], "which goes without data"
    assert read("--data_dir=d") == make_spec(data_dir="d")


def test_words_of_a_spec_are_a_command_line_that_asks_for_the_same():
    for spec in (
        make_spec(samples="16,64", seeds=(0, 3), overrides=["steps={16: 4}", "target_modules=[a, b]"], report_to="trackio"),
        make_spec(samples="all", out="a b", task="t", force=True, allow_pickle=True),
        make_spec(),
    ):
        assert read(*spec.words()) == spec


def test_spec_is_json_and_back():
    spec = make_spec(samples="16,64", seeds=(0, 1), overrides=("rank=4",), recipe="qwen", report_to="trackio", force=True)
    assert make_spec(**json.loads(json.dumps(asdict(spec)))) == spec
    assert hash(spec) == hash(make_spec(**asdict(spec)))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"samples": 15}, "SAMPLES '15'"), ({"seeds": -1}, "SEED '-1'"),
     ({"rows": "long"}, "ROWS 'long' is not one of all, sentences"), ({"seeds": 2**32}, "SEED '4294967296'"),
     ({"samples": (4, "many")}, "SAMPLES 'many'"), ({"recipe": "qwn"}, "Did you mean qwen"),
     ({"recipe": "qwen", "overrides": ["rnk=1"]}, "Did you mean rank")],
    ids=str,
)  # fmt: skip
def test_wrong_value_is_said_by_the_spec_itself(wrong, said):
    with pytest.raises(UserError, match=said):
        make_spec(**wrong)


def test_plan_writes_and_prints_nothing_and_says_all_that_is_known(random_model, tmp_path, monkeypatch, capfd):
    data, out = words_folder(tmp_path / "data"), tmp_path / "out"
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", lambda *args, **kwargs: pytest.fail("loaded"))
    capfd.readouterr()
    before = sys.argv[:]
    plan = make_plan(make_spec(samples=(4, 8), seeds=(0, 1), model=str(random_model), data_dir=str(data), out=str(out)))
    assert capfd.readouterr() == ("", "")
    assert not out.exists()
    assert sys.argv == before
    assert [(job.seed, job.subset.name) for job in plan.jobs] == [(0, "4"), (0, "8"), (1, "4"), (1, "8")]
    assert len({job.folder for job in plan.jobs}) == 4
    assert {job.folder.parent for job in plan.jobs} == {out / "adapters"}
    assert [job.steps for job in plan.jobs] == [plan.recipe.planned_steps(rows) for rows in (4, 8, 4, 8)]
    assert plan.notes[-1].startswith("recipe qwen (generative) · task sst2_01 · device cpu")
