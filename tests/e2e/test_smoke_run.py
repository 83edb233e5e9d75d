"""The whole system on toys: Ray actors, DeepSpeed, two arms, checkpoints, report.

Then the same run killed three times, stopped, and finished by two ranks.
"""

import json
import math
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from orchestrator.checkpoint import STATE, flaw_of
from orchestrator.config import load_run
from orchestrator.errors import ConfigError
from orchestrator.report import final_table
from orchestrator.run import train
from orchestrator.summary import load_summary

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


KEPT = "checkpoint-12"
"""The undisturbed run has it too."""
ONE_ARM = ("compare.ce_only=null", "data.held_out_limit=10")
TWO_RANKS = (
    "student.num_ranks=2",
    "student.gradient_checkpointing=true",
    "train.micro_batch=2",
    "deepspeed={zero_optimization: {stage: 2}}",
)


@dataclass(frozen=True)
class Story:
    """What became of a run that was killed three times, stopped, and went on with two ranks."""

    folder: Path
    on_one_rank: list[tuple[float, ...]]
    """Step by step, until it was stopped."""
    exit_code: int
    messages: str
    """Of the process that was stopped."""
    last_messages: str


@pytest.fixture(scope="module")
def story(program, smoke, ray_address, tmp_path_factory) -> Story:
    """First and last on a Ray of its own, in between on one that outlives it."""
    run = tmp_path_factory.mktemp("killed") / "run"
    program.stop_at(program.start(run, *ONE_ARM), run, 3, signal.SIGKILL)
    for step in (6, 9):
        again = program.start(run, *ONE_ARM, "--resume", ray=ray_address)
        program.stop_at(again, run, step, signal.SIGKILL)
    assert not (run / "outcome.json").exists()
    process = program.start(run, *ONE_ARM, "--resume", ray=ray_address)
    messages = program.stop_at(process, run, 11, signal.SIGTERM)
    numbers = program.numbers_of(run)
    last = program.finish(program.start(run, *ONE_ARM, *TWO_RANKS, "--resume"))
    return Story(run, numbers, process.returncode, messages, last)


def test_killed_three_times_it_goes_on_bit_for_bit(program, smoke, story):
    _, peaceful = smoke
    assert len(story.on_one_rank) >= 12
    assert story.on_one_rank == program.numbers_of(peaceful)[: len(story.on_one_rank)]
    ours, theirs = (
        {path.name: load_file(path) for path in (folder / KEPT / STATE).glob("*.safetensors")}
        for folder in (story.folder, peaceful)
    )
    assert {"weights.safetensors", "exp_avg_sq.safetensors"} <= ours.keys() == theirs.keys()
    for file, tensors in theirs.items():
        assert ours[file].keys() == tensors.keys()
        assert all(torch.equal(ours[file][name], value) for name, value in tensors.items()), file


def test_sigterm_saves_and_exits(story):
    assert story.exit_code == 128 + signal.SIGTERM
    step = len(story.on_one_rank)
    assert f"stopped by SIGTERM: checkpoint-{step} is saved" in story.messages
    assert flaw_of(story.folder / f"checkpoint-{step}") is None


def test_two_ranks_go_on_where_one_stopped(program, smoke, story):
    """Ranks, micro-batches, ZeRO and gradient checkpointing do not change the mathematics."""
    text = "student.num_ranks: 1 -> 2; the numbers agree with the former ones to rounding"
    assert text in story.last_messages
    ours, theirs = program.rows_of(story.folder), program.rows_of(smoke[1])
    assert [row["step"] for row in ours] == list(range(len(theirs)))
    assert [row["loss"] for row in ours] == pytest.approx([r["loss"] for r in theirs], rel=1e-5)
    shares = [[v for n, v in rows[15].items() if n.endswith("_share")] for rows in (ours, theirs)]
    assert len(shares[0]) == 3
    assert shares[0] == pytest.approx(shares[1], rel=0.05)
    last = story.folder / f"checkpoint-{len(ours)}"
    assert flaw_of(last) is None
    assert json.loads((last / "trainer_state.json").read_text()) == {"step": len(ours)}
    assert len(list((last / STATE).glob("random-*"))) == 2
    assert (last / "model.safetensors").is_file()
