"""Gate on the alignment: most of the scored bytes lie in chunks that both tokenizers cut out."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int, Int32

from losses.alignment.chunks import align, live_chunks
from losses.alignment.tokens import byte_starts, scored_tokens
from losses.document import Document
from orchestrator.gates.likelihood import HasLikelihoods
from orchestrator.gates.verdict import Verdict
from orchestrator.student.module import Example, Term

BEFORE, AFTER = 16, 24
"""Bytes shown before and after the first uncovered place."""


@runtime_checkable
class HasTokenEnds(Protocol):
    """A signal that tells at which byte each of the teacher's tokens ends."""

    byte_ends: Int32[np.ndarray, "token"]


@dataclass(frozen=True)
class Covered:
    """One document, both sides' token ends, and which of its bytes lie in live common chunks."""

    document: Document
    student_ends: Int[np.ndarray, "student_token"]
    teacher_ends: Int[np.ndarray, "teacher_token"]
    inside: Bool[np.ndarray, "byte"]

    @property
    def missing(self) -> Bool[np.ndarray, "byte"]:
        """Scored bytes that are not covered."""
        found: Bool[np.ndarray, "byte"] = self.document.scored & ~self.inside
        return found


def coverage(terms: Sequence[Term], examples: Sequence[Example], minimum: float) -> list[Verdict]:
    """A verdict a teacher: the share of all scored bytes that are covered.

    A teacher whose signals do not tell where its tokens end is left out.
    """
    verdicts = []
    for name in dict.fromkeys(term.teacher for term in terms):
        own = [index for index, term in enumerate(terms) if term.teacher == name]
        found = [one for example in examples if (one := covered(example, own)) is not None]
        if found:
            verdicts.append(_verdict(name, found, minimum))
    return verdicts


def _verdict(teacher: str, found: Sequence[Covered], minimum: float) -> Verdict:
    scored = sum(one.document.num_scored_bytes for one in found)
    share = sum(int((one.inside & one.document.scored).sum()) for one in found) / max(1, scored)
    problem = _other_text(teacher, found)
    if not problem and share < minimum:
        problem = _too_little(teacher, share, minimum, found)
    return Verdict("coverage", teacher, share, minimum, problem)


def covered(example: Example, own: Sequence[int]) -> Covered | None:
    """One document's two tokenizations aligned.

    Args:
        example: the document with all signals.
        own: indices of this teacher's signals; the first that tells token ends is read.
    """
    document, student_ends = example.document, example.tokens.byte_ends
    signals = (example.signals[index] for index in own)
    signal = next((one for one in signals if isinstance(one, HasTokenEnds)), None)
    if signal is None:
        return None
    chunks = align(student_ends, signal.byte_ends)
    scored = example.tokens.scored(document.scored)
    live = live_chunks(chunks, scored, _known(signal, document))
    member = chunks.student_chunk >= 0
    member[member] = live[chunks.student_chunk[member]]
    inside = np.zeros(len(document.scored), dtype=bool)
    starts = byte_starts(student_ends)
    for token in np.flatnonzero(member):
        inside[starts[token] : student_ends[token]] = True
    return Covered(document, student_ends, signal.byte_ends, inside)


def _known(signal: HasTokenEnds, document: Document) -> Bool[np.ndarray, "token"]:
    """The teacher's tokens that it says something about: all scored ones, unless it tells."""
    if isinstance(signal, HasLikelihoods):
        known: Bool[np.ndarray, "token"] = np.isfinite(signal.logprob)
        return known
    return scored_tokens(signal.byte_ends.astype(np.int64), document.scored)


def _other_text(teacher: str, found: Sequence[Covered]) -> str:
    for one in found:
        ours, theirs = (int(e.max(initial=0)) for e in (one.student_ends, one.teacher_ends))
        if ours != theirs:
            return (
                f"gate coverage: teacher {teacher}'s tokens of document {one.document.name} end at "
                f"byte {theirs}, the student's at byte {ours}; expected the same text. "
                f"{_sample(one, teacher)}"
            )
    return ""


def _too_little(teacher: str, share: float, minimum: float, found: Sequence[Covered]) -> str:
    one = next(one for one in found if one.missing.any())
    return (
        f"gate coverage: {share:.1%} of the scored bytes lie in chunks that the student's and "
        f"teacher {teacher}'s tokens have in common; expected at least {minimum:.0%} "
        f"(checks.min_coverage). {_sample(one, teacher)}"
    )


def _sample(one: Covered, teacher: str) -> str:
    at = int(np.argmax(one.missing))
    return (
        f"From byte {at} of document {one.document.name} the student cuts "
        f"{pieces(one.document, one.student_ends, at)}, the teacher "
        f"{pieces(one.document, one.teacher_ends, at)}: check that teachers.{teacher}.model has "
        "its own tokenizer, and that both sides read the same text and score the same parts of it"
    )


def pieces(document: Document, ends: Int[np.ndarray, "token"], at: int) -> str:
    """The document around a byte, cut where the tokens end.

    >>> from losses.document import text_document
    >>> pieces(text_document("d", "The quick fox"), np.array([-1, 3, 9, 13]), 5)
    "'The| quick| fox'"
    """
    first, last = max(0, at - BEFORE), min(len(document.content), at + AFTER)
    inside = sorted({int(end) for end in ends if first < end < last})
    borders = [first, *inside, last]
    cut = [document.content[a:b] for a, b in pairwise(borders)]
    return repr(b"|".join(cut).decode(errors="replace"))
