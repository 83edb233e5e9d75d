"""From what arrives for a document to what the module reads of it.

Signals come in the order of the teachers' methods. Where targets are combined, several of them
become one; then each method does what needs no forward pass of the student.
"""

from collections.abc import Sequence
from dataclasses import replace

from losses.alignment.tokens import Tokens
from losses.document import Document
from losses.mixture import Absent, Scheme, TeacherScore
from orchestrator.student.ensemble import EnsembleTerm
from orchestrator.student.module import Example, Term
from teachers.document_signals import DocumentSignals


def example_of(document: Document, tokens: Tokens, row: DocumentSignals) -> Example:
    """The teachers' scores parted from their methods' signals."""
    scores = tuple(entry for entry in row if isinstance(entry, TeacherScore))
    signals = tuple(entry for entry in row if not isinstance(entry, TeacherScore))
    return Example(document, tokens, signals, scores)


def combined(example: Example, terms: Sequence[Term], scheme: Scheme, step: int) -> Example:
    """The example with one signal for each term; an ensemble is the only one where there is one.

    Args:
        example: the document with each teacher's signals.
        terms: the module's.
        scheme: divides a document's weight among the members that read it.
        step: the number of steps done, which scheduled weights depend on.
    """
    if not terms or not isinstance(terms[0], EnsembleTerm):
        return example
    return replace(example, signals=(terms[0].combined(example, scheme, step),))


def ahead(example: Example, terms: Sequence[Term]) -> Example:
    """The example with each signal as its method reads it."""
    scored = example.tokens.scored(example.document.scored)
    rows = zip(terms, example.signals, strict=True)
    signals = (
        s if isinstance(s, Absent) else t.method.ahead(example.tokens, scored, s, t.pair)
        for t, s in rows
    )
    return replace(example, signals=tuple(signals))
