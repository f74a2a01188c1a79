"""Prices: sums by hand, and each mistake in one line."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness_ext.errors import UserError
from harness_ext.results import prices

FILE = """
currency: EUR
machines:
  H200: 3.6
models:
  gpt-x: {in: 0.15, out: 0.60}
"""
RECORD = {"model": "Qwen", "hardware": "NVIDIA H200", "docs_per_s": 10.0, "n": 500, "tokens": {"in": 50_000, "out": 1_000}}


def _read(tmp_path, text: str) -> prices.Prices:
    path = tmp_path / "prices.yaml"
    path.write_text(text, encoding="utf-8")
    found = prices.read(path)
    assert found
    return found


@given(st.floats(0.01, 1e4), st.floats(0, 100))
def test_machine_is_paid_for_the_hours_that_1000_documents_take(docs_per_s, per_hour):
    hours = 1000 / docs_per_s / 3600
    paid = prices.Prices(Path("prices.yaml"), "EUR", {"H200": per_hour}, {})
    assert prices.per_1000(paid, RECORD | {"docs_per_s": docs_per_s}) == pytest.approx(hours * per_hour)


def test_machine_is_found_by_a_part_of_its_name(tmp_path):
    found = _read(tmp_path, FILE)
    assert found.currency == "EUR"
    assert prices.per_1000(found, RECORD) == pytest.approx(0.1)  # 100 s at 3.6 an hour
    assert prices.per_1000(found, RECORD | {"hardware": "nvidia h200"}) == pytest.approx(0.1)
    assert prices.per_1000(found, RECORD | {"hardware": "AMD EPYC, 2 threads"}) is None


def test_model_that_is_paid_by_the_million_tokens_costs_no_machine(tmp_path):
    # 100 in and 2 out a document: 0.1 and 0.002 million a thousand.
    found = prices.per_1000(_read(tmp_path, FILE), RECORD | {"model": "gpt-x"})
    assert found == pytest.approx(0.1 * 0.15 + 0.002 * 0.60)


@pytest.mark.parametrize(
    "record", [{"docs_per_s": None}, {"docs_per_s": 0.0}, {"model": "gpt-x", "tokens": None}, {"model": "gpt-x", "n": 0},
               {"model": "gpt-x", "tokens": {"in": None, "out": None}}, {"hardware": None}],
)  # fmt: skip
def test_run_of_which_too_little_is_known_has_no_price(record, tmp_path):
    assert prices.per_1000(_read(tmp_path, FILE), RECORD | record) is None


def test_no_file_no_prices(tmp_path):
    assert prices.read(tmp_path / "prices.yaml") is None


def test_free_is_a_price(tmp_path):
    assert prices.per_1000(_read(tmp_path, "currency: EUR\nmachines: {H200: 0}"), RECORD) == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("currency: [", "cannot be read as YAML"),
        ("", "it has no fields. It takes currency, machines, models"),
        ("- EUR", "it has no fields"),
        ("machines: {H200: 4}", "currency None is no text"),
        ("currency: 5", "currency 5 is no text"),
        (
            "currency: EUR\nmachine: {H200: 4}",
            "'machine' is unknown; it takes currency, machines, models. Did you mean machines?",
        ),
        ("currency: EUR\nmachines: [H200]", "machines is ['H200']"),
        ("currency: EUR\nmachines: {H200: -4}", "the price of 'H200' is -4"),
        ("currency: EUR\nmachines: {H200: .nan}", "the price of 'H200' is nan"),
        ("currency: EUR\nmachines: {H200: .inf}", "the price of 'H200' is inf"),
        (f"currency: EUR\nmachines: {{H200: {10**400}}}", "the price of 'H200' is 1000"),
        ("currency: EUR\nmachines: {H200: yes}", "the price of 'H200' is True"),
        ("currency: EUR\nmachines: {H200: 4 EUR}", "the price of 'H200' is '4 EUR'"),
        ("currency: EUR\nmodels: {gpt-x: 3}", "model 'gpt-x' has no fields. It takes in, out"),
        ("currency: EUR\nmodels: {gpt-x: {in: 1}}", "the price of 'gpt-x: out' is None"),
        ("currency: EUR\nmodels: {gpt-x: {in: 1, out: 1, cached: 1}}", "'cached' is unknown; model 'gpt-x' takes in, out"),
    ],
)
def test_mistake_is_one_line(text, said, tmp_path):
    with pytest.raises(UserError, match=r"prices\.yaml") as error:
        _read(tmp_path, text)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_bytes_that_are_no_text_and_a_folder_are_one_line(tmp_path):
    path = tmp_path / "prices.yaml"
    path.write_bytes(b"currency: \xff\xfe")
    for each in (path, tmp_path):
        with pytest.raises(UserError, match="cannot be read"):
            prices.read(each)


def test_two_machines_in_one_name_are_the_users_to_settle(tmp_path):
    found = _read(tmp_path, "currency: EUR\nmachines: {H200: 4, NVIDIA: 2}")
    with pytest.raises(UserError, match=r"'H200' and 'NVIDIA' are both in the name of machine 'NVIDIA H200'. Keep one"):
        prices.per_1000(found, RECORD)


def test_name_that_no_run_has_is_said_with_the_machines_there_are(tmp_path, capsys):
    (tmp_path / "prices.yaml").write_text("currency: EUR\nmachines: {Xeon: 1, amd: 2}\nmodels: {gpt-x: {in: 1, out: 2}}")
    priced = prices.read(tmp_path / "prices.yaml")
    prices.say_unused(priced, [{"model": "m", "hardware": "AMD EPYC, 1 threads"}])
    said = capsys.readouterr().err
    assert "no run was made by 'Xeon' or 'gpt-x'. The machines are AMD EPYC, 1 threads." in said
    prices.say_unused(priced, [{"model": "gpt-x", "hardware": "AMD"}, {"model": "m", "hardware": "Intel Xeon"}])
    assert capsys.readouterr().err == ""
    prices.say_unused(None, [])
