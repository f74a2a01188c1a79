"""Recipes: the shipped ones, and what is said about wrong ones."""

import math
import re

import pytest

from finetune.config import FEW_STEPS, RECIPES, Recipe, read_recipe
from harness_ext.errors import UserError

SHIPPED = sorted(path.stem for path in RECIPES.glob("*.yaml"))


def test_eight_recipes_are_shipped():
    assert SHIPPED == [
        "deberta",
        "encoder",
        "paper-deberta-b128",
        "paper-deberta-b4",
        "paper-qwen",
        "qwen",
        "setfit",
        "tiny",
    ]


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_recipe_opens_with_its_command_and_loads(name):
    first = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0]
    assert re.match(rf"# make finetune MODEL=\S+ (RECIPE={name} )?SAMPLES=64$", first)
    recipe = read_recipe(name, [])
    if name in ("deberta", "qwen", "tiny"):
        assert 200 <= recipe.planned_steps(16) <= 500
        assert 1000 <= recipe.planned_steps(1024) <= 1500
        assert recipe.planned_steps(67_349) >= 3000
        assert recipe.warmup_share == 0.06
        assert recipe.alpha in (None, 2 * recipe.rank)


@pytest.mark.parametrize(
    ("name", "samples", "steps"),
    [  # DESIGN's and the write-up's own counts: checkpoint-6, checkpoint-24; 48, 192, 768 and 1,581 updates
        ("paper-qwen", 16, 6),
        ("paper-qwen", 64, 24),
        ("paper-deberta-b4", 64, 48),
        ("paper-deberta-b4", 256, 192),
        ("paper-deberta-b4", 1024, 768),
        ("paper-deberta-b128", 1024, 24),
        ("paper-deberta-b128", 67_349, 1581),
    ],
)
def test_paper_recipe_plans_the_steps_of_the_original(name, samples, steps):
    assert read_recipe(name, []).planned_steps(samples) == steps
    assert (steps < FEW_STEPS) == (steps <= 48)


def test_steps_between_two_sizes_are_interpolated_on_a_log_scale():
    recipe = Recipe(kind="generative", learning_rate=1e-3, batch_size=4, steps={16: 300, 1024: 1500})
    assert recipe.planned_steps(128) == 300 + (1500 - 300) * math.log(128 / 16) / math.log(1024 / 16) == 900
    assert [recipe.planned_steps(rows) for rows in (2, 16, 1024, 99_999)] == [300, 300, 1500, 1500]


def test_plain_number_of_steps_holds_for_every_size():
    recipe = read_recipe("qwen", ["steps=200"])
    assert recipe.steps == 200
    assert [recipe.planned_steps(rows) for rows in (2, 64, 67_349)] == [200, 200, 200]


def test_original_is_trained_on_the_whole_text_alone_and_others_on_the_answers_above_all():
    weights = {name: read_recipe(name).full_loss_weight for name in ("paper-qwen", "qwen", "tiny")}
    assert weights == {"paper-qwen": None, "qwen": 0.1, "tiny": 0.1}


def test_overrides_replace_settings():
    recipe = read_recipe("qwen", ["rank=4", "target_modules=[q_proj, v_proj]", "steps={8: 5}"])
    assert (recipe.rank, recipe.target_modules, recipe.planned_steps(64)) == (4, ["q_proj", "v_proj"], 5)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("learning_rte=1.0", "unknown setting 'learning_rte'. Did you mean learning_rate"),
        ("nonsense=1", "unknown setting 'nonsense'. There are kind"),
        ("rank", "not of the form name=value"),
        ("rank=[", "not valid YAML"),
        ("learning_rate=1e-4", "write 1.0e-4"),
        ("learning_rate=.nan", "learning_rate nan"),
        ("learning_rate=-1.0", "learning_rate -1.0 is not above 0"),
        ("learning_rate=1.0e+38", "above 1e+30 overflows"),
        ("batch_size=2.5", "batch_size 2.5"),
        ("batch_size=true", "batch_size True"),
        ("batch_size=0", "batch_size 0 is not above 0"),
        ("batch_size=5", "odd"),
        ("schedule=liner", "Did you mean linear"),
        ("kind=encoder", "kind 'encoder' is not one of"),
        ("warmup_share=6", "warmup_share 6 is not within 0 and 1"),
        ("epochs=3", "exactly one of steps and epochs"),
        ("steps={a: 1}", "steps {'a': 1}"),
        ("steps={16: 0}", "all above 0"),
        ("steps=0", "all above 0"),
        ("steps=true", "steps True"),
        ("steps=2.5", "steps 2.5"),
        ("full_loss_weight=-0.1", "full_loss_weight -0.1 is below 0"),
        ("target_modules=q_proj", "target_modules 'q_proj'"),
        ("target_modules=[]", "target_modules []"),
        ("quantise=int3", "quantise 'int3' is not one of"),
    ],
)
def test_wrong_setting_is_said_in_one_line(override, message):
    with pytest.raises(UserError) as error:
        read_recipe("qwen", [override])
    assert message in str(error.value)


def test_unknown_recipe_names_near_ones():
    with pytest.raises(UserError, match="Did you mean deberta"):
        read_recipe("debarta", [])


def test_recipe_of_the_users_own_is_read(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("kind: classifier\nlearning_rate: 0.1\nbatch_size: 2\nepochs: 2\n")
    assert read_recipe(str(path), []).planned_steps(8) == 8
    path.write_text("kind: classifier\n")
    with pytest.raises(UserError, match="learning_rate, batch_size must be given"):
        read_recipe(str(path), [])
    path.write_text("- kind\n")
    with pytest.raises(UserError, match="no settings"):
        read_recipe(str(path), [])
