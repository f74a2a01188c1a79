import hashlib
import random
import re
from types import SimpleNamespace

from datasets import Dataset

from harness_ext.paths import TASKS_DIR
from harness_ext.results.reported import SST2_VALIDATION
from harness_ext.task.data import GLUE_FILES, fingerprint, load_splits, overlap


def rows(split):
    return list(zip(split["sentence"], split["label"], strict=True))


def write(folder, train="a good film \t1\nbad\t0\n", dev=" fine \t1\n", header="sentence\tlabel\n"):
    for file, text in (("train.tsv", train), ("dev.tsv", dev)):
        (folder / file).write_bytes((header + text).encode())
    return str(folder)


def test_load_splits_strips_sentences_and_names_its_source(tmp_path):
    splits = load_splits(data_dir=write(tmp_path))
    assert rows(splits["train"]) == [("a good film", 1), ("bad", 0)]
    assert rows(splits["validation"]) == [("fine", 1)]
    assert splits["validation"].info.description == f"{tmp_path.name}/dev.tsv"


def test_load_splits_reads_windows_line_ends_and_a_byte_order_mark(tmp_path):
    (tmp_path / "train.tsv").write_bytes(b"\xef\xbb\xbfsentence\tlabel\r\nbad\t0\r\n")
    (tmp_path / "dev.tsv").write_bytes(b'sentence\tlabel\n"so" he said, "dull\t0')  # quotes are text; no last line end
    splits = load_splits(data_dir=str(tmp_path))
    assert rows(splits["train"]) == [("bad", 0)]
    assert rows(splits["validation"]) == [('"so" he said, "dull', 0)]


def test_load_splits_other_columns_and_classes_need_no_code(tmp_path):
    folder = write(tmp_path, "id1\twin cash\tspam\n", "id2\thello\tham\n", "id\tmessage\tkind\n")
    splits = load_splits(data_dir=folder, text="message", label="kind", classes=["ham", "spam"])
    assert rows(splits["train"]) == [("win cash", 1)]
    assert rows(splits["validation"]) == [("hello", 0)]


def test_fingerprint_depends_on_content_and_order_only(tmp_path):
    a, b = {"sentence": "a", "label": 1}, {"sentence": "b", "label": 0}
    assert fingerprint([a, b]) == fingerprint([dict(b, sentence="a", label=1), dict(a, sentence="b", label=0)])
    assert len({fingerprint([a, b]), fingerprint([b, a]), fingerprint([a]), fingerprint([dict(a, label=0), b])}) == 4


def test_shared_sst2_has_the_counts_that_its_readme_states(shared):
    splits = load_splits(data_dir=str(shared / "data" / "sst2"))
    assert [len(splits["train"]), sum(splits["train"]["label"])] == [67_349, 37_569]
    assert [len(splits["validation"]), sum(splits["validation"]["label"])] == [872, 444]
    assert fingerprint(splits["validation"]) == SST2_VALIDATION


def test_mini_sample_is_balanced_distinct_and_plain():
    splits = load_splits(embedded="sst2_01/mini")
    assert [len(splits[name]) for name in GLUE_FILES] == [240, 120]
    assert all(2 * sum(splits[name]["label"]) == len(splits[name]) for name in GLUE_FILES)
    plain = [re.sub(r"\W", "", text) for name in GLUE_FILES for text in splits[name]["sentence"]]
    assert len(set(plain)) == len(plain)


def test_mini_sample_has_no_sentence_of_the_real_data(shared):
    def plain(path):
        return {re.sub(r"[^a-z0-9]", "", line.split("\t")[0].lower()) for line in path.read_text().splitlines()[1:]}

    mini = plain(TASKS_DIR / "sst2_01/mini/train.tsv") | plain(TASKS_DIR / "sst2_01/mini/dev.tsv")
    assert not mini & (plain(shared / "data/sst2/train.tsv") | plain(shared / "data/sst2/dev.tsv"))


def test_reported_numbers_are_the_originals_own(shared):
    ours = TASKS_DIR.parent / "results" / "reported.csv"
    assert (
        hashlib.sha256(ours.read_bytes()).digest()
        == hashlib.sha256((shared / "reference/reported.csv").read_bytes()).digest()
    )


def test_overlap_counts_as_a_plain_comparison_of_letters_does():
    rng = random.Random(0)
    letters = [
        "a",
        "B",
        "é",
        "É",
        "ß",
        "ẞ",
        "İ",
        "ǅ",
        "x_",
        "_",
        " ",
        "!",
        "…",
        "1",
        "²",
        "Ⅷ",
        "中",
        "\u0301",
        "\U0001d400",
        "😀",
    ]
    texts = ["".join(rng.choices(letters, k=rng.randint(1, 4))) for _ in range(4000)]
    train, validation = texts[:3000], texts[3000:]
    splits = {name: Dataset.from_dict({"sentence": rows}) for name, rows in (("train", train), ("validation", validation))}
    plain = [re.sub(r"[\W_]", "", text.casefold()) or text for text in texts]
    seen = set(plain[:3000])
    assert 0 < sum(text in seen for text in plain[3000:]) < 1000
    assert overlap(SimpleNamespace(dataset=splits)) == sum(text in seen for text in plain[3000:])
