"""What a method is: two pure halves that agree on a signal.

``signal`` runs beside the teacher without gradients; ``loss`` runs inside the student's wrapped
module. Both see one document at a time, so padding and batch composition cannot leak in.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, TypeAlias

import numpy as np
from jaxtyping import Bool, Float
from pydantic import ConfigDict
from torch import Tensor, nn

from losses.alignment.projection import Projection
from losses.alignment.tokens import Tokens
from losses.alignment.vocabulary import Vocabulary
from losses.document import Document
from losses.needs import Need
from losses.prediction import Head, Prediction
from losses.reencoding.reencoder import Reencoder
from losses.signals import Signal

OPTIONS = ConfigDict(extra="forbid", arbitrary_types_allowed=True)
"""Method options come from YAML: unknown keys are refused."""


def refuse_unused(divergence: str, **options: object) -> None:
    """Refuse an option that was set (is not None) though the divergence does not read it.

    Raises:
        ValueError: names the first such option.
    """
    for name, value in options.items():
        if value is not None:
            raise ValueError(
                f'option "{name}" = {value} has no effect with divergence "{divergence}"; '
                "leave it out or choose a divergence that reads it"
            )


Encode: TypeAlias = Callable[[Sequence[str]], list[list[int]]]
"""A tokenizer's ids of texts as in the middle of a document: nothing added in front."""


@dataclass(frozen=True)
class Pair:
    """A student's and a teacher's vocabulary, with the head and W where a method needs them.

    ``encode_student`` is the student's tokenizer; None where nothing is encoded (a check). The
    widths are those of hidden states, None where they are not known. ``student_head`` is the
    student's head as it starts; only ``Method.modules`` gets it.
    """

    student: Vocabulary
    teacher: Vocabulary
    teacher_head: Head | None = None
    projection: Projection | None = None
    encode_student: Encode | None = None
    student_width: int | None = None
    teacher_width: int | None = None
    student_head: Head | None = None

    @property
    def has_one_vocabulary(self) -> bool:
        """True if an id stands for the same thing on both sides."""
        return self.student.ids_fingerprint == self.teacher.ids_fingerprint

    @cached_property
    def reencoder(self) -> Reencoder:
        """The teacher's tokens in the student's; remembers what it encoded.

        Raises:
            ValueError: ``encode_student`` is None.
        """
        if self.encode_student is None:
            raise ValueError("texts are encoded by the student's tokenizer; pass encode_student")
        return Reencoder(self.student, self.teacher, self.encode_student)


def known_widths(pair: Pair, method: str) -> tuple[int, int]:
    """How wide the student's and the teacher's hidden states are.

    Raises:
        ValueError: one of them is not known.
    """
    ours, theirs = pair.student_width, pair.teacher_width
    if ours is None or theirs is None:
        raise ValueError(
            f"method {method}: the hidden states are {ours} (student) and {theirs} (teacher) wide; "
            "expected both, as hidden_size in config.json"
        )
    return ours, theirs


@dataclass(frozen=True)
class LossTerm:
    """A method's loss on one document, not yet normalised.

    Args:
        total: sum over the method's units, in nats.
        units: how many units were summed.
        metrics: name -> detached value, summed over the document like ``total``; the names are
            the method's ``metric_names``.
    """

    total: Float[Tensor, ""]
    units: int
    metrics: Mapping[str, Float[Tensor, ""]] = field(default_factory=dict)


class Method(ABC):
    """One distillation method; a subclass is a frozen pydantic dataclass of its options.

    The file's name under ``losses/methods`` is the method's name in YAML.
    """

    unit: ClassVar[str]
    """What ``LossTerm.units`` counts: ``tokens`` or ``chunks``."""
    bytes_per_token: ClassVar[str]
    """Bytes that a signal takes for each teacher token, in words where it depends on the model."""
    reads: ClassVar[frozenset[Need]]
    """What ``signal`` reads of a teacher, whichever options are set; see ``needs``."""
    metric_names: ClassVar[tuple[str, ...]] = ()
    """The names of ``LossTerm.metrics``, all of them in every document."""
    needs_teacher_head: ClassVar[bool] = False
    """True if ``loss`` reads the teacher's full distributions from its hidden states."""
    needs_projection: ClassVar[bool] = False
    """True if ``loss`` reads ``Pair.projection``."""
    borrows: ClassVar[frozenset[str]] = frozenset()
    """Modules of the same teacher's other methods that ``loss`` reads, where there are any."""

    @property
    def zero_at_identity(self) -> bool:
        """True if ``loss`` is zero for a teacher equal to the student; checked before step 0."""
        return False

    @property
    def tells_likelihoods(self) -> bool:
        """True if a signal's ``logprob`` is what the teacher gives each token; checked so too."""
        return True

    @property
    def needs_continuations(self) -> bool:
        """True if ``signal`` asks the model what follows other tokens than the document's."""
        return False

    @property
    def needs_distributions(self) -> bool:
        """True if the options make ``signal`` read whole rows, which ``reads`` does not tell."""
        return False

    @property
    def needs(self) -> frozenset[Need]:
        """What a teacher must be able to tell for this method with its options."""
        by_options = {
            Need.CONTINUATIONS: self.needs_continuations,
            Need.DISTRIBUTIONS: self.needs_distributions or self.needs_teacher_head,
        }
        return self.reads | {need for need, needed in by_options.items() if needed}

    def check(self, pair: Pair) -> None:  # noqa: B027 - most methods accept every pair
        """Raise ValueError if the method cannot work for these two vocabularies."""

    def check_widths(self, pair: Pair) -> None:  # noqa: B027 - most methods read no width
        """Raise ValueError if a width of hidden states that ``modules`` needs is not known."""

    @abstractmethod
    def signal(self, teacher: Prediction, document: Document) -> Signal:
        """What the teacher sends about the document."""

    def ahead(
        self,
        tokens: Tokens,
        scored: Bool[np.ndarray, "token"],
        signal: Signal,
        pair: Pair,
    ) -> Signal:
        """The signal as ``num_units`` and ``loss`` read it: what needs no student forward.

        Runs at the student, before the step and without gradients: re-encoding, matching.
        """
        return signal

    def modules(self, pair: Pair) -> nn.ModuleDict:
        """Trained parameters that the method owns (none by default)."""
        return nn.ModuleDict()

    @property
    def trains_modules(self) -> bool:
        """True if ``modules`` may give any; the options alone tell."""
        return False

    @property
    def modules_learning_rate(self) -> float | None:
        """Peak learning rate of what ``modules`` gives; None for the student's."""
        return None

    @property
    def exports_modules(self) -> bool:
        """True if what ``modules`` gives is to be saved beside the exported model."""
        return False

    @abstractmethod
    def loss(
        self, student: Prediction, signal: Signal, pair: Pair, modules: nn.ModuleDict
    ) -> LossTerm:
        """The loss on one document."""

    @abstractmethod
    def num_units(
        self,
        tokens: Tokens,
        scored: Bool[np.ndarray, "token"],
        signal: Signal,
        pair: Pair,
    ) -> int:
        """``LossTerm.units`` of the same document, known before any student forward."""
