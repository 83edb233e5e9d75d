"""Exposure bias of a model by reference, written to files."""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from losses.byte_distributions import Converter
from orchestrator.data import load_documents
from orchestrator.exposure_bias.curve import Curve
from orchestrator.exposure_bias.measure import Models, measure
from orchestrator.exposure_bias.picture import check_output, save
from orchestrator.exposure_bias.prompts import choose_prompts
from orchestrator.loading import load_model, source_of
from teachers.byte_reading import ConverterName
from teachers.sampling import Sampling


@dataclass(frozen=True)
class Pairing:
    """A student and the teacher that is its oracle, and where and how they run."""

    student: str
    teacher: str
    dtype: str = "float32"
    device: str = "cpu"
    converter: ConverterName = "branches"


@dataclass(frozen=True)
class Prompts:
    """Which prompts: documents, how many, and how long plain texts' beginnings are in bytes."""

    data: tuple[str, ...]
    count: int = 64
    num_bytes: int = 64


@dataclass(frozen=True)
class ExposureBias:
    """Excess accumulated error (percent) at the end of the curve, with its 95 % interval.

    Args:
        ex_acc_err: (R(l) - l ε(l)) / (l ε(l)) · 100 at l = ``num_bytes``; None if l ε(l) is 0.
        low: lower bound, from resampled prompts; None if it is not finite.
        high: upper bound; None if it is not finite.
        note: why a number is None; None if all are there.
        num_bytes: length that the curve reaches.
        num_prompts: how many there were.
        student_error: R(l), nats.
        teacher_error: l ε(l), nats.
        files: what was written.
    """

    ex_acc_err: float | None
    low: float | None
    high: float | None
    note: str | None
    num_bytes: int
    num_prompts: int
    student_error: float
    teacher_error: float
    files: tuple[str, ...]


def evaluate_exposure_bias(
    pairing: Pairing, prompts: Prompts, sampling: Sampling, output: Path
) -> ExposureBias:
    """Sample, measure, and write the curve to ``output`` (``.png`` and ``.json``, or ``.json``).

    Raises:
        ConfigError: a model, a data file or matplotlib is missing, or prompts are.
    """
    check_output(output)
    documents = load_documents(prompts.data)
    student, teacher = (
        load_model(source_of(reference, pairing.dtype), reference, pairing.device)
        for reference in (pairing.student, pairing.teacher)
    )
    tokenizers = (student.tokenizer, teacher.tokenizer)
    texts = choose_prompts(documents, tokenizers, prompts.count, prompts.num_bytes, sampling.seed)
    curve = measure(Models(student, teacher, Converter(name=pairing.converter)), texts, sampling)
    about = {**asdict(pairing), "data": prompts.data, "num_prompts": len(texts)}
    about |= {"prompt_bytes": prompts.num_bytes, **asdict(sampling)}
    note = _note(curve)
    files = save(curve, about if note is None else {**about, "note": note}, output)
    return ExposureBias(
        ex_acc_err=_finite(curve.percent[-1]),
        low=_finite(curve.low[-1]),
        high=_finite(curve.high[-1]),
        note=note,
        num_bytes=len(curve),
        num_prompts=len(texts),
        student_error=float(curve.student_error[-1]),
        teacher_error=float(curve.teacher_error[-1]),
        files=tuple(map(str, files)),
    )


def _note(curve: Curve) -> str | None:
    """Why the end of the curve has no number."""
    if not np.isfinite(curve.percent[-1]):
        return (
            "the student makes no error on the teacher's own text (l ε(l) is 0), so the excess is "
            "no share of it; use more prompts or longer texts"
        )
    if not np.isfinite([curve.low[-1], curve.high[-1]]).all():
        return (
            "in some of the resamples the student makes no error on the teacher's own text, so the "
            "interval is not bounded; use more prompts or longer texts"
        )
    return None


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
