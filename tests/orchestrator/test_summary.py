"""What a run found: the file, and the table on the screen."""

import json
from dataclasses import asdict, replace

import pytest
from rich.console import Console

from orchestrator.evaluation import Lead
from orchestrator.report import final_table
from orchestrator.summary import BitsPerByte, Summary, load_summary

FULL = Summary(
    bits_per_byte=BitsPerByte(1.5, 1.1, 1.2, {"gemma": 0.9}),
    by_data_set={
        "before": {"a.jsonl": 1.7, "b.jsonl": 1.4},
        "distilled": {"a.jsonl": 1.15, "b.jsonl": 1.05},
        "ce_only": {"a.jsonl": 1.25, "b.jsonl": 1.15},
        "teacher gemma": {"a.jsonl": 0.95},
    },
    lead=Lead(0.1, 0.08, 0.12),
    gap_recovered={"distilled": 0.6667, "ce_only": 0.5},
    gradient_share={"ce": 0.25, "gemma": 0.75},
    waited_s={"gemma": 3.0},
    seconds=100.0,
    training_s={"distilled": 40.0, "ce_only": 20.0},
    tokens_per_s=123.0,
    cpu_percent=91.0,
    num_steps=60,
    held_out_bytes=12345,
    left_out={"student": 0, "gemma": 2},
    checkpoint="/runs/x/final",
)
ALONE = replace(
    FULL,
    bits_per_byte=BitsPerByte(1.5, 1.1, None, {}),
    by_data_set={"before": {"a.jsonl": 1.5}, "distilled": {"a.jsonl": 1.1}},
    lead=None,
    gap_recovered={},
    gradient_share={},
    training_s={"distilled": 40.0},
    left_out={"student": 0},
)


def shown(summary: Summary) -> str:
    console = Console(width=200, no_color=True)
    with console.capture() as capture:
        console.print(final_table(summary))
    return capture.get()


@pytest.mark.parametrize("summary", [FULL, ALONE])
def test_saved_and_loaded(summary, tmp_path):
    summary.save(tmp_path)
    assert load_summary(tmp_path) == asdict(summary)
    assert json.loads((tmp_path / "summary.json").read_text())["num_steps"] == 60


def test_table_of_a_full_run():
    text = shown(FULL)
    rows = {line.split("│")[1].strip(): line for line in text.splitlines() if "│" in line}
    assert [name for name in rows if name] == ["before", "ce_only", "distilled", "teacher gemma"]
    cells = [cell.strip() for cell in rows["teacher gemma"].split("│")[1:-1]]
    assert cells == ["teacher gemma", "0.950", "-", "0.900"]
    assert [c.strip() for c in rows["distilled"].split("│")[2:-1]] == ["1.150", "1.050", "1.100"]
    assert "12,345 held-out bytes" in text
    assert "by 0.100 bits per byte (95 % interval over documents: 0.080 to 0.120)" in text
    assert "Gap to the original recovered: distilled 66.7%, ce_only 50.0%." in text
    assert "ce 25%, gemma 75%" in text
    assert "60 steps: distilled 40 s, ce_only 20 s; 123 tokens/s" in text
    assert "'gemma': 2" in text
    assert 'from_pretrained("/runs/x/final")' in text


def test_table_of_a_run_with_one_arm():
    text = shown(ALONE)
    assert "distilled" in text
    for absent in ("ce_only", "teacher", "leads", "Gap to", "Share of", "left out"):
        assert absent not in text
