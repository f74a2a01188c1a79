"""`python tests/benchmarks/table.py results/bench.json [results/bench.md]`: the figures of `make bench` as Markdown."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path


def main() -> None:
    """Print every table whose benchmarks are in the file, or write them to a second one."""
    report = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    found: dict[str, list[dict]] = {}
    for each in report["benchmarks"]:
        found.setdefault(each["name"].partition("[")[0], []).append(each)
    cpu = report["machine_info"]["cpu"]
    made = f"made by `make bench` on {cpu.get('brand_raw')}, {cpu.get('count')} cores, {report['datetime'][:10]}"
    tables = ["\n".join(render(found[name])) for name, render in TABLES.items() if name in found]
    text = "\n\n".join([f"<!-- {made} -->", *tables]) + "\n"
    if len(sys.argv) > 2:
        Path(sys.argv[2]).write_text(text, encoding="utf-8")
    else:
        print(text)


def beside_stock(rows: list[dict]) -> list[str]:
    """Ours against stock lm-eval."""
    heads = ["model", "says", "stored as", "batch stock, ours", "docs", "docs/s stock", "ours", "ratio"]
    heads += ["first answer s stock", "ours", "wall s stock", "ours", "peak GB stock", "ours", "labels equal"]
    lines = _head(heads)
    for row in rows:
        case, info = row["params"], row["extra_info"]
        stock, ours = info["stock"], info["ours"]
        lines.append(_line(
            case["size"], case["variant"], case["dtype"], f"{case['theirs']}, {case['ours'] or 'chosen'}", info["documents"],
            f"{stock['docs_per_s']:.1f}", f"{ours['docs_per_s']:.1f}", f"{ours['docs_per_s'] / stock['docs_per_s']:.2f}",
            f"{stock['first_answer_s']:.1f}", f"{ours['first_answer_s']:.1f}", f"{stock['wall_s']:.1f}",
            f"{ours['wall_s']:.1f}", f"{stock['peak_bytes'] / 1e9:.2f}", f"{ours['peak_bytes'] / 1e9:.2f}",
            f"{info['labels_equal']} of {info['labels']}",
        ))  # fmt: skip
    return lines


def examples_beside_stock(rows: list[dict]) -> list[str]:
    """Ours against stock lm-eval with the same 16 examples before every document."""
    lines = _head(("docs", "docs/s stock", "ours", "ratio", "labels equal"))
    for row in rows:
        info = row["extra_info"]
        theirs, ours = info["stock"]["docs_per_s"], info["ours"]["docs_per_s"]
        equal = f"{info['labels_equal']} of {info['labels']}"
        lines.append(_line(info["documents"], f"{theirs:.2f}", f"{ours:.2f}", f"{ours / theirs:.2f}", equal))
    return lines


def real_beside_stock(rows: list[dict]) -> list[str]:
    """Ours against stock lm-eval at its fastest batch size, on pretrained models or on one that thinks."""
    lines = _head(
        ("model", "stored as", "examples", "docs", "stock's batch", "docs/s stock", "ours", "ratio", "labels equal")
    )
    for row in rows:
        case, info = row["params"] or {}, row["extra_info"]
        theirs, ours = info["stock"]["docs_per_s"], info["ours"]["docs_per_s"]
        equal = f"{info['labels_equal']} of {info['labels']}" if "labels" in info else ""
        lines.append(_line(
            case.get("name", "28M that thinks"), case.get("dtype", "float32"), case.get("shots", ""), info["documents"],
            info["batch"], f"{theirs:.2f}", f"{ours:.2f}", f"{ours / theirs:.2f}", equal,
        ))  # fmt: skip
    return lines


def adapter(rows: list[dict]) -> list[str]:
    """An adapter against its base."""
    lines = _head(("dtype", "docs", "docs/s base", "with the adapter", "ratio"))
    for row in rows:
        base, ours = (row["extra_info"][side]["docs_per_s"] for side in ("base", "ours"))
        documents = row["extra_info"]["documents"]
        lines.append(_line(row["params"]["dtype"], documents, f"{base:.1f}", f"{ours:.1f}", f"{ours / base:.2f}"))
    return lines


def beside_inspect_ai(rows: list[dict]) -> list[str]:
    """Ours against inspect_ai."""
    lines = _head(("docs", "docs/s inspect_ai", "ours", "ratio", "labels equal"))
    for row in rows:
        info = row["extra_info"]
        theirs, ours = info["inspect_ai"]["docs_per_s"], info["ours"]["docs_per_s"]
        lines.append(_line(info["documents"], f"{theirs:.1f}", f"{ours:.1f}", f"{ours / theirs:.2f}", info["labels_equal"]))
    return lines


def share(rows: list[dict]) -> list[str]:
    """Share of the machine's matrix-product rate."""
    lines = _head(("model", "docs", "docs/s", "necessary tokens", "GFLOP/s", "machine's", "share"))
    for row in rows:
        info = row["extra_info"]
        lines.append(_line(
            " ".join(row["params"].values()), info["documents"], f"{info['docs_per_s']:.1f}", info["tokens"],
            f"{info['gflops']:.0f}", f"{info['machine_gflops']:.0f}", f"{info['share']:.0%}",
        ))  # fmt: skip
    return lines


def growth(rows: list[dict]) -> list[str]:
    """Time and memory against documents or words."""
    lines = _head(("documents", "words", "docs/s", "first answer s", "wall s", "peak GB"))
    for row in rows:
        info = row["extra_info"]
        lines.append(_line(
            info["documents"], info.get("words", 19), f"{info['docs_per_s']:.1f}", f"{info['first_answer_s']:.1f}",
            f"{info['wall_s']:.1f}", f"{info['peak_bytes'] / 1e9:.2f}",
        ))  # fmt: skip
    return lines


def tiny(rows: list[dict]) -> list[str]:
    """Ours and stock on `tiny`."""
    lines = _head(("side", "docs/s", "first answer s", "wall s", "peak GB"))
    for row in rows:
        info = row["extra_info"]
        lines.append(_line(
            row["params"]["side"], f"{info['docs_per_s']:.1f}", f"{info['first_answer_s']:.1f}", f"{info['wall_s']:.1f}",
            f"{info['peak_bytes'] / 1e9:.2f}",
        ))  # fmt: skip
    return lines


def training(rows: list[dict]) -> list[str]:
    """Trainers side by side."""
    lines = _head(("trainer", "steps/s", "samples/s", "peak GB", "first loss"))
    for row in rows:
        info = row["extra_info"]
        if "steps_per_s" in info:
            loss = info.get("first_loss")
            lines.append(_line(
                row["params"]["variant"], f"{info['steps_per_s']:.3f}", f"{info['samples_per_s']:.2f}",
                f"{info['peak_bytes'] / 1e9:.2f}", f"{loss:.5f}" if loss else "",
            ))  # fmt: skip
    return lines


TABLES = {
    "test_answers_beside_stock": beside_stock,
    "test_examples_beside_stock": examples_beside_stock,
    "test_answers_beside_inspect_ai": beside_inspect_ai,
    "test_tiny_on_872": tiny,
    "test_share_of_the_machines_matrix_product_rate": share,
    "test_share_of_the_machines_rate_on_a_real_models_prompts": share,
    "test_real_model_beside_stock": real_beside_stock,
    "test_thinking_beside_stock": real_beside_stock,
    "test_adapter_beside_its_base": adapter,
    "test_growth_with_documents": growth,
    "test_growth_with_prompt_length": growth,
    "test_train": training,
}


def _head(names: Sequence[str]) -> list[str]:
    return [_line(*names), "|" + " --- |" * len(names)]


def _line(*cells: object) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


if __name__ == "__main__":
    main()
