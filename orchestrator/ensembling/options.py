"""What is mixed and how."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from losses.byte_distributions import Converter
from losses.mixture.targets import Mean
from teachers.backends.transformers import LanguageModel
from teachers.byte_reading import ConverterName

Interface: TypeAlias = Literal["tokens", "bytes"]
"""What is mixed: distributions of the next token, or of the next byte."""


@dataclass(frozen=True)
class EnsembleMember:
    """A model, its name and its weight, above 0; only the proportions of weights count."""

    name: str
    model: LanguageModel
    weight: float = 1.0


@dataclass(frozen=True)
class Search:
    """How far a member with tokens looks for other segmentations of a text.

    With no limits (``epsilon`` 0 and a large ``width``) the sum over segmentations is exact, and
    grows fast with the length of the text.

    Args:
        width: histories kept at each byte.
        epsilon: smallest share of the mass with which one is kept.
        healed_tokens: last tokens of a prompt of text that other segmentations may replace, so
            that a prompt may end inside a word. Chats end with their template, and need none.
    """

    width: int = 10
    epsilon: float = 0.01
    healed_tokens: int = 4


@dataclass(frozen=True)
class EnsembleOptions:
    """How members are mixed.

    Args:
        mean: arithmetic (of probabilities) or geometric (of log-probabilities).
        interface: ``auto`` mixes tokens where all members have the same vocabulary, else bytes.
        converter: how tokens become next bytes where a text is scored in bytes.
        search: of the beams that write in bytes, and of the converter ``beam``.
        use_cache: keep keys and values while writing; without them every step reads all again.
        token_budget: padded tokens of one forward pass where texts are scored.
    """

    mean: Mean = "arithmetic"
    interface: Literal["auto", "tokens", "bytes"] = "auto"
    converter: ConverterName = "branches"
    search: Search = Search()
    use_cache: bool = True
    token_budget: int = 2048

    @property
    def whole_converter(self) -> Converter:
        """The converter with its limits."""
        return Converter(self.converter, epsilon=self.search.epsilon, beam=self.search.width)
