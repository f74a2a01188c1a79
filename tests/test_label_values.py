"""Which value of a label column is 0 and which 1: on the Hub by the data set's own names, in files as they are written."""

import pytest
from builders import tsv_folder
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from harness_ext.errors import UserError
from harness_ext.task import data
from harness_ext.task.data import load_splits

GOOD_BAD = {"sentence": ["good", "bad"]}


@pytest.fixture
def hub(monkeypatch):
    """Serve a data set of two rows, "good" and "bad", with these labels: ``hub([1, 0], names=...)``."""

    def serve(labels, kind=None, **task):
        feature = ClassLabel(names=kind) if isinstance(kind, list) else Value(kind or "int64")
        rows = Dataset.from_dict({**GOOD_BAD, "label": labels}, Features({"sentence": Value("string"), "label": feature}))
        monkeypatch.setattr(data, "load_dataset", lambda name, config: DatasetDict(train=rows, validation=rows))
        monkeypatch.setattr(data.hub_client, "look_up", lambda kind, name: None)
        return load_splits(hub="org/reviews", **task)["validation"]["label"]

    return serve


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([1, 0], ["neg", "pos"]),
        ([0, 1], ["pos", "neg"]),
        ([0, 1], ["Positive", "Negative"]),
        ([1, 0], ["negative", "positive"]),
        ([0, 1], ["1", "0"]),
        ([1, 0], ["LABEL_0", "LABEL_1"]),
        ([1, 0], ["dull", "fun"]),  # names that say nothing: as numbered
    ],
)
def test_names_of_the_hubs_classes_say_which_is_positive(labels, names, hub):
    assert hub(labels, names) == [1, 0]


def test_turning_round_is_said_and_so_are_names_that_say_nothing(hub, capsys):
    hub([1, 0], ["neg", "pos"])
    assert capsys.readouterr().err == ""
    hub([0, 1], ["pos", "neg"])
    assert "calls its class 0 'pos' and 1 'neg': they are turned round" in capsys.readouterr().err
    hub([1, 0], ["dull", "fun"])
    assert "0 is 'dull', 1 is 'fun'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("labels", "kind", "classes", "expected"),
    [
        ([1, 0], ["spam", "ham"], ["ham", "spam"], [0, 1]),  # named by the task: 0 is ham, whatever its number
        ([1, 0], ["spam", "ham"], ["spam", "ham"], [1, 0]),
        ([0, 2], ["neg", "neutral", "pos"], ["pos", "neg"], [1, 0]),
        ([0, 1], ["neg", "pos"], [1, 0], [1, 0]),  # the task turns the numbers round itself
        ([True, False], "bool", [0, 1], [1, 0]),
        ([True, False], "bool", [False, True], [1, 0]),
        (["POSITIVE", " negative"], "string", ["negative", "positive"], [1, 0]),
        ([1.0, 0.0], "float64", [0, 1], [1, 0]),
        (["1", "0"], "string", [0, 1], [1, 0]),
    ],
)
def test_other_values_and_classes_mean_what_the_task_says(labels, kind, classes, expected, hub):
    assert hub(labels, kind, classes=classes) == expected


def test_unlabelled_split_of_the_hub_is_named_as_such(hub):
    with pytest.raises(UserError, match=r"row 1: label -1 is not 0 or 1.*not labelled.*'splits'"):
        hub([-1, -1], ["negative", "positive"])


@pytest.mark.parametrize("values", [("1", "0"), ("1.0", "0.0"), (" 1", "0 "), ("TRUE", "FALSE")])
def test_labels_as_table_programs_write_them_are_read(values, tmp_path):
    rows = list(zip(GOOD_BAD["sentence"], values, strict=True))
    assert load_splits(data_dir=str(tsv_folder(tmp_path, rows, rows)))["train"]["label"] == [1, 0]


@pytest.mark.parametrize(
    ("classes", "value", "said"),
    [
        ([False, True], "no", r'label \'no\' is not False or True.*quotes, classes: \["no", "yes"\]'),  # YAML: [no, yes]
        ([0, 1], "positive", r"not 0 or 1\. If the labels are words.*classes"),
        ([0, 1], "1.5", "label '1.5' is not 0 or 1"),
        ([0, 1], "-1", "not labelled"),
        ([0, 0], "0", "two different values"),
    ],
)
def test_label_that_means_nothing_is_an_error_that_says_what_to_do(classes, value, said, tmp_path):
    folder = tsv_folder(tmp_path, [("a", value)], [("a", value)])
    with pytest.raises(UserError, match=said):
        load_splits(data_dir=str(folder), classes=classes)
