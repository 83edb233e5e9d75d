"""The whole system on toys: Ray actors, DeepSpeed, two arms, checkpoints, report."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.config import load_run
from orchestrator.errors import ConfigError
from orchestrator.report import final_table
from orchestrator.run import train
from orchestrator.summary import Summary, load_summary

pytestmark = [pytest.mark.ray, pytest.mark.slow]

GOLDEN = Path(__file__).parent.parent / "golden" / "smoke.json"


def losses_of(folder: Path) -> list[float]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def test_student_gets_better(smoke):
    summary, _ = smoke
    bits = summary.bits_per_byte
    assert bits.distilled < bits.before - 0.3
    assert bits.ce_only < bits.before - 0.3
    assert max(bits.teachers.values()) < bits.distilled


def test_every_teacher_counts(smoke):
    shares = smoke[0].gradient_share
    assert set(shares) == {"ce", "bytelevel", "sentencepiece"}
    assert math.isclose(sum(shares.values()), 1.0, rel_tol=1e-6)
    assert min(shares.values()) > 0.05


def test_summary_is_written_as_promised(smoke):
    summary, folder = smoke
    written = load_summary(folder)
    assert written["bits_per_byte"] == {
        "before": summary.bits_per_byte.before,
        "distilled": summary.bits_per_byte.distilled,
        "ce_only": summary.bits_per_byte.ce_only,
        "teachers": dict(summary.bits_per_byte.teachers),
    }
    assert written["seconds"] > 0
    assert written["tokens_per_s"] > 0
    assert written["lead"]["low"] <= written["lead"]["value"] <= written["lead"]["high"]


def test_metrics_carry_the_promised_names(smoke):
    _, folder = smoke
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(20))
    promised = {
        "loss",
        "grad_norm",
        "learning_rate",
        "num_tokens",
        "step_time",
        "ce_loss",
        "perf/tokens_per_s",
        "timing/teacher_wait",
        "timing/student_forward",
        "timing/student_backward",
        "timing/optimizer",
        "teacher/bytelevel/kl/kd_loss",
        "teacher/sentencepiece/alm/kd_loss",
        "teacher/bytelevel/wait_s",
    }
    assert promised <= lines[0].keys()
    assert "teacher/bytelevel/gradient_share" in lines[0]
    assert all(math.isfinite(value) for line in lines for value in line.values())
    assert list((folder / "tb").glob("events.*"))


def test_driver_never_opens_a_signal(smoke, opened_signals):
    assert smoke
    assert opened_signals == []


def test_checkpoint_opens_with_plain_transformers_and_generates(smoke, tmp_path):
    code = f"""
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained({smoke[0].checkpoint!r})
tokenizer = AutoTokenizer.from_pretrained({smoke[0].checkpoint!r})
inputs = tokenizer("The statement", return_tensors="pt")
output = model.generate(**inputs, max_new_tokens=8, do_sample=False)
print(output.shape[1] - inputs["input_ids"].shape[1])
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert 1 <= int(done.stdout.split()[-1]) <= 8


def test_table_shows_every_model(smoke):
    from rich.console import Console

    console = Console(width=120)
    with console.capture() as captured:
        console.print(final_table(smoke[0]))
    text = captured.get()
    for word in ("before", "distilled", "ce_only", "teacher bytelevel", "from_pretrained", "95 %"):
        assert word in text


def test_losses_equal_the_golden_ones(smoke):
    golden = json.loads(GOLDEN.read_text())
    if golden["python"] != f"{sys.version_info.major}.{sys.version_info.minor}":
        pytest.skip(f"the toy text is that of Python {golden['python']}'s own documentation")
    assert losses_of(smoke[1]) == pytest.approx(golden["losses"], rel=2e-3)


def test_non_empty_folder_is_refused_before_anything_starts(smoke):
    folder = smoke[1]
    with pytest.raises(ConfigError, match="not empty"):
        train(load_run("smoke.yaml", [f"output_dir={folder}"]))
    assert (folder / "summary.json").is_file()


def test_two_ranks_under_zero_give_the_same_losses(smoke, tmp_path):
    """Ranks, micro-batches, ZeRO and gradient checkpointing do not change the mathematics."""
    overrides = [
        "student.num_ranks=2",
        "student.gradient_checkpointing=true",
        "train.save_steps=3",
        "train.micro_batch=2",
        "train.max_steps=6",
        "train.gradient_share_steps=6",
        "compare.ce_only=null",
        "deepspeed={zero_optimization: {stage: 1}}",
        f"output_dir={tmp_path}/two",
    ]
    summary: Summary = train(load_run("smoke.yaml", overrides))
    assert losses_of(tmp_path / "two") == pytest.approx(losses_of(smoke[1])[:6], rel=1e-4)
    state = json.loads((tmp_path / "two" / "checkpoint-3" / "trainer_state.json").read_text())
    assert state == {"step": 3}
    assert (tmp_path / "two" / "checkpoint-3" / "model.safetensors").is_file()
    for name, share in summary.gradient_share.items():
        first = json.loads((smoke[1] / "metrics.jsonl").read_text().splitlines()[0])
        key = "ce_gradient_share" if name == "ce" else f"teacher/{name}/gradient_share"
        assert share == pytest.approx(first[key], rel=0.05)


def test_dead_teacher_is_named(tmp_path, monkeypatch):
    """A teacher that cannot load its weights ends the run with its own message."""
    import shutil

    from orchestrator.assets import resolve

    broken = tmp_path / "broken"
    shutil.copytree(resolve("asset:toy/sentencepiece"), broken)
    (broken / "model.safetensors").write_bytes(b"not weights")
    overrides = [f"teachers.sentencepiece.model={broken}", f"output_dir={tmp_path}/run"]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Exception, match=r"(?i)header|safetensor|deserializ"):
        train(load_run("smoke.yaml", overrides))
