"""The frozen teacher inside the student's rank: one copy of the weights serves both.

Under LoRA the student's own weights never change. With the adapters off and the original rows of
the vocabulary in their old place the student is the model that it was, so what it says then is
what a teacher in a process of its own would say.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace

from torch import nn
from transformers import PreTrainedModel

from losses.document import Document
from losses.prediction import Head
from orchestrator.student.adapters import adapters_off
from teachers.actor import TeacherSpec
from teachers.backends.transformers import LanguageModel, head_of
from teachers.document_score import DocumentScore
from teachers.document_signals import DocumentSignals
from teachers.head_weights import HeadWeights
from teachers.teacher import Teacher
from teachers.tokenizer import Tokenizer


@dataclass(frozen=True)
class OriginalRows:
    """What the student read and wrote tokens with before it got another tokenizer."""

    read: nn.Module
    head: Head

    @classmethod
    def of(cls, model: PreTrainedModel, num_ids: int, *, copied: bool) -> "OriginalRows":
        """The model's rows as they are; ``copied`` if it is to get others."""
        head = head_of(model, num_ids)
        modules = (model.get_input_embeddings(), head.linear)
        read, write = deepcopy(modules) if copied else modules
        if copied:
            nn.ModuleList([read, write]).requires_grad_(requires_grad=False)
        return cls(read, replace(head, linear=write))


class SharedTeacher:
    """Answers like a teacher's actor, from the student's own weights.

    Args:
        spec: what the actor would be built from.
        model: the student, with its adapters.
        rows: its original ones.
    """

    def __init__(self, spec: TeacherSpec, model: PreTrainedModel, rows: OriginalRows) -> None:
        self.name = spec.name
        self._model, self._rows = model, rows
        tokenizer = Tokenizer.load(spec.model_source, spec.name, spec.start_token)
        view = LanguageModel(model, tokenizer, rows.head, packing=spec.model_source.packing)
        with _left_as_it_was(model):
            self._teacher = Teacher(view, spec.methods, spec.token_budget, spec.asks)

    def signals(self, documents: Sequence[Document]) -> list[DocumentSignals]:
        """See ``Teacher.signals``."""
        with self._original():
            return self._teacher.signals(documents)

    def evaluate(self, documents: Sequence[Document]) -> list[DocumentScore]:
        """See ``Teacher.evaluate``."""
        with self._original():
            return self._teacher.evaluate(documents)

    def head_weights(self) -> HeadWeights:
        """See ``Teacher.head_weights``."""
        with self._original():
            return self._teacher.head_weights()

    @contextmanager
    def _original(self) -> Iterator[None]:
        """The student as the model that it was."""
        model = self._model
        read, write = model.get_input_embeddings(), model.get_output_embeddings()
        with _left_as_it_was(model), adapters_off(model):
            model.eval()
            model.set_input_embeddings(self._rows.read)
            model.set_output_embeddings(self._rows.head.linear)
            try:
                yield
            finally:
                model.set_input_embeddings(read)
                model.set_output_embeddings(write)


@contextmanager
def _left_as_it_was(model: PreTrainedModel) -> Iterator[None]:
    """Afterwards the same parameters are trained, in the same mode."""
    trained, was_training = [p for p in model.parameters() if p.requires_grad], model.training
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad = True
        model.train(was_training)
