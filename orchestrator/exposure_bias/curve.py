"""Excess accumulated error against length, from errors at each byte of sampled texts.

The error at a byte is KL(teacher || student) of the next byte's distribution, given all bytes
before it. Summed over the first ``l`` bytes and averaged over texts it is R(l) where the student
wrote those bytes, and l ε(l) where the teacher did. What the student's own writing adds is

    ExAccErr(l) = (R(l) - l ε(l)) / (l ε(l)) · 100 %

Bytes are the symbols, so it makes no difference which tokenizers the two models have. Only the
prefixes are sampled; each error is a whole sum over the next byte.

Source: Arora et al. 2022, arXiv:2204.01171; MiniLLM, Gu et al. 2024, arXiv:2306.08543 (both with
tokens in the place of bytes).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

NUM_RESAMPLES = 1000
MIN_SHARE = 0.1
"""The curve ends where fewer than this share of the texts (or two of them) go on."""


@dataclass(frozen=True)
class Curve:
    """One entry for each length, from 1 byte on; ``low`` and ``high`` bound 95 % of ``percent``.

    Args:
        student_error: R(l) in nats; prefixes by the student.
        teacher_error: l ε(l) in nats; prefixes by the teacher.
        percent: ExAccErr(l).
        low: lower bound, from resampled prompts.
        high: upper bound.
        student_texts: the student's texts that say something about byte l.
        teacher_texts: the teacher's.
    """

    student_error: Float64[np.ndarray, "length"]
    teacher_error: Float64[np.ndarray, "length"]
    percent: Float64[np.ndarray, "length"]
    low: Float64[np.ndarray, "length"]
    high: Float64[np.ndarray, "length"]
    student_texts: Int64[np.ndarray, "length"]
    teacher_texts: Int64[np.ndarray, "length"]

    def __len__(self) -> int:
        return len(self.percent)


def accumulated(
    errors: Float64[np.ndarray, "text length"], weights: Float64[np.ndarray, "draw text"]
) -> Float64[np.ndarray, "draw length"]:
    """Sum over bytes of the weighted mean error of the texts that reach the byte.

    Args:
        errors: nats; NaN where a text has ended or nothing is known.
        weights: of each text: ones, probabilities, or how often a resample drew it.

    Returns:
        NaN from the first byte on that no text reaches.

    >>> errors = np.array([[1.0, 2.0, np.nan], [3.0, np.nan, np.nan]])
    >>> accumulated(errors, np.ones((1, 2))).tolist()
    [[2.0, 4.0, nan]]
    """
    known = np.isfinite(errors)
    totals = weights @ np.where(known, errors, 0.0)
    reached = weights @ known
    means = np.full_like(totals, np.nan)
    np.divide(totals, reached, out=means, where=reached > 0)
    sums: Float64[np.ndarray, "draw length"] = means.cumsum(axis=-1)
    return sums


def excess(
    student: Float64[np.ndarray, "*any"], teacher: Float64[np.ndarray, "*any"]
) -> Float64[np.ndarray, "*any"]:
    """ExAccErr in percent of R(l) and l ε(l); zero where neither has any error.

    >>> excess(np.array([3.0, 0.0, 1.0]), np.array([2.0, 0.0, 0.0])).tolist()
    [50.0, 0.0, inf]
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        percent = (student - teacher) / teacher * 100
    return np.where((student == 0) & (teacher == 0), 0.0, percent)


def exposure_bias(
    student_errors: Float64[np.ndarray, "prompt length"],
    teacher_errors: Float64[np.ndarray, "prompt length"],
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
) -> Curve:
    """The curve of texts that both models wrote for the same prompts, in the same order.

    The interval comes from resampling prompts, with both models' texts.

    Args:
        student_errors: error at each byte of the student's texts, NaN where unknown.
        teacher_errors: error at each byte of the teacher's texts, NaN where unknown.
        seed: of the resampling.
        num_resamples: how many sets of prompts are drawn.

    Raises:
        ValueError: fewer than two texts of a model have a byte.
    """
    counts = [np.isfinite(errors).sum(0) for errors in (student_errors, teacher_errors)]
    length = _length(np.minimum(*counts), len(student_errors))
    cut = student_errors[:, :length], teacher_errors[:, :length]
    once = np.ones((1, len(student_errors)))
    [student], [teacher] = (accumulated(errors, once) for errors in cut)
    drawn = _resamples(len(student_errors), seed, num_resamples)
    low, high = _interval(*(accumulated(errors, drawn) for errors in cut))
    return Curve(
        student_error=student,
        teacher_error=teacher,
        percent=excess(student, teacher),
        low=low,
        high=high,
        student_texts=counts[0][:length],
        teacher_texts=counts[1][:length],
    )


def _length(fewest: Int64[np.ndarray, "length"], num_prompts: int) -> int:
    """Bytes that enough texts of both models reach."""
    short = np.flatnonzero(fewest < max(2, MIN_SHARE * num_prompts))
    length = int(short[0]) if len(short) else len(fewest)
    if not length:
        raise ValueError(
            f"{int(fewest[0]) if len(fewest) else 0} of {num_prompts} texts have a first byte "
            "that both models predict; expected two at least: use more prompts, or check that "
            "both models read them"
        )
    return length


def _resamples(count: int, seed: int, num_resamples: int) -> Float64[np.ndarray, "draw prompt"]:
    """How often each prompt is in each resample."""
    chances = np.full(count, 1 / count)
    return np.random.default_rng(seed).multinomial(count, chances, num_resamples).astype(float)


def _interval(
    student: Float64[np.ndarray, "draw length"], teacher: Float64[np.ndarray, "draw length"]
) -> tuple[Float64[np.ndarray, "length"], Float64[np.ndarray, "length"]]:
    """Bounds of 95 % of the resamples; one without any text at a byte is left out there."""
    with np.errstate(invalid="ignore"):  # between infinite ones
        low, high = np.nanquantile(excess(student, teacher), [0.025, 0.975], axis=0)
    return low, high
