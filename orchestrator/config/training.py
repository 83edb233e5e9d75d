"""The parts ``data``, ``train`` and ``compare`` of the run file."""

from pathlib import Path
from typing import Annotated, Literal

from annotated_types import MinLen
from pydantic import AfterValidator, Field, Strict

from orchestrator.config.section import Expected, Items, Section, expand_home
from orchestrator.config.stages import StageConfig

DATA_RULE = "a .jsonl file or asset:NAME"


def _check_data(path: str) -> str:
    if not path.startswith("asset:") and not path.endswith(".jsonl"):
        raise ValueError(f'"{path}" is not a data file; expected {DATA_RULE}')
    return str(expand_home(Path(path))) if path.startswith("~") else path


DataFile = Annotated[str, AfterValidator(_check_data), Expected(DATA_RULE)]

LearningRate = Annotated[float, Field(gt=0)]

Decay = Annotated[float, Field(ge=0, lt=1)]


class DataConfig(Section):
    """The text. Relative paths start at the current folder."""

    train: Annotated[Items[DataFile], MinLen(1)]
    """Documents to train on."""
    validation: Items[DataFile] = ()
    """Documents for choices such as the learning rate; not in the final table."""
    held_out: Annotated[Items[DataFile], MinLen(1)]
    """Documents of the final table, never trained on."""
    train_limit: int | None = Field(None, ge=1)
    """Documents taken from each file of ``train``, the first ones; null is all."""
    held_out_limit: int | None = Field(None, ge=1)
    """Documents taken from each file of ``held_out``, the first ones; null is all."""
    max_length: int = Field(512, ge=2)
    """Longest document in student tokens; longer ones are cut. It is not scaled by itself: a token
    of a large vocabulary holds about 4 bytes, so a student of bytes needs 4 times as much to read
    the same text, as in ALM's published runs; a run that cuts such documents warns of it."""


class TrainConfig(Section):
    """The optimisation."""

    max_steps: int = Field(100, ge=1)
    """Optimiser steps."""
    global_batch: int = Field(8, ge=1)
    """Documents in one optimiser step, over all ranks."""
    micro_batch: int = Field(2, ge=1)
    """Documents in one forward and backward pass of a rank, at most."""
    learning_rate: LearningRate = 1.0e-3
    """Peak learning rate of AdamW."""
    lr_schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Course of the learning rate after the warm-up; linear and cosine end at 0. With ``stages``
    each stage has a course of its own."""
    warmup_steps: int = Field(0, ge=0)
    """Steps over which the learning rate rises linearly from 0; with ``stages`` in each of them."""
    stages: Items[StageConfig] = ()
    """What is trained first and what then, such as the embeddings of a new tokenizer before all;
    [] trains all of the student from the first step to the last."""
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled weight decay of AdamW."""
    betas: Annotated[tuple[Decay, Decay], Strict(False)] = (0.9, 0.95)
    """Decay of AdamW's running means of the gradient and of its square."""
    max_grad_norm: float = Field(1.0, ge=0)
    """The gradient is scaled down to this norm; 0 switches clipping off."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Seed of the order of documents and of everything random."""
    logging_steps: int = Field(1, ge=1)
    """Steps between two entries of the metrics."""
    gradient_share_steps: int = Field(10, ge=0)
    """Steps between two measurements of each teacher's share of the gradient; 0 is never."""
    save_steps: int = Field(0, ge=0)
    """Steps between two checkpoints, and one after the last step; 0 writes none but the final
    model. Only a run with checkpoints survives a crash."""
    save_total_limit: int | None = Field(None, ge=1)
    """Checkpoints that are kept, the oldest deleted first; null keeps all. The latest and the
    best one always stay."""
    keep_best: bool = False
    """Score ``data.validation`` at each checkpoint and never delete the best one."""
    prefetch: int = Field(2, ge=1)
    """Steps that the teachers may work ahead of the student."""
    prefetch_bytes: int | None = Field(None, ge=1)
    """Bytes of signals that may wait beyond those of the student's next step; null leaves it to
    ``prefetch`` alone. What is not there yet counts as the largest step so far."""
    timeout_s: float = Field(600.0, gt=0, le=1_000_000)
    """Seconds of silence after which a teacher or a rank counts as lost."""
    learning_rates_tried: Items[LearningRate] = ()
    """A record of the search that led to ``learning_rate``; it has no effect."""


class CeOnlyConfig(Section):
    """A second arm: the same student, steps, data and seed with cross-entropy alone."""

    learning_rate: LearningRate
    """Peak learning rate of this arm: its own best one, so that the comparison is fair."""
    learning_rates_tried: Items[LearningRate] = ()
    """A record of the search that led to ``learning_rate``; it has no effect."""


class CompareConfig(Section):
    """What the distilled student is compared with."""

    ce_only: CeOnlyConfig | None = None
    """Train the same student with cross-entropy alone as well; null leaves it out."""
