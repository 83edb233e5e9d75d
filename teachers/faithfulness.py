"""Why a text cannot be used with a tokenizer: its tokens do not join to its bytes."""

import re
from collections.abc import Sequence
from enum import StrEnum

from losses.alignment.vocabulary import METASPACE, Family, Vocabulary
from teachers.normalisation import Normalisation

LITERAL_BYTE = re.compile("<0x[0-9A-Fa-f]{2}>")


class Reason(StrEnum):
    """What makes a text unfaithful, for counting."""

    UNKNOWN_TOKEN = "unknown token"
    SPECIAL_TOKEN = "a special token is read from the text"
    NORMALISER = "normaliser changes the text"
    METASPACE = "literal ▁ becomes a space"
    LITERAL_BYTE = "literal <0xHH> becomes a byte"
    OTHER = "tokens do not join to the text"


class UnfaithfulTokenizer(ValueError):
    """A text's tokens do not join to its bytes.

    Args:
        message: with the text's name and the first difference.
        reason: short, the same for all texts with the same trouble.
    """

    def __init__(self, message: str, reason: str = Reason.OTHER.value) -> None:
        super().__init__(message)
        self.reason = reason


def reason_of(
    text: str,
    ids: Sequence[int],
    vocabulary: Vocabulary,
    normalisation: Normalisation,
    family: Family,
) -> Reason:
    """The first of the known reasons that holds for this text."""
    roles = {vocabulary.roles[index] for index in ids if index in vocabulary.roles}
    if "unknown" in roles:
        return Reason.UNKNOWN_TOKEN
    if normalisation.normalised(text) != text:
        return Reason.NORMALISER
    if family is not Family.BYTE_LEVEL and METASPACE in text:
        return Reason.METASPACE
    if family is Family.SENTENCEPIECE and LITERAL_BYTE.search(text):
        return Reason.LITERAL_BYTE
    return Reason.SPECIAL_TOKEN if roles else Reason.OTHER


def first_difference(ours: bytes, expected: bytes) -> str:
    """Where two byte strings part, with a few bytes around."""
    pairs = zip(ours, expected, strict=False)
    at = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(ours), len(expected)))
    window = slice(max(0, at - 8), at + 8)
    return f"at byte {at}: got {ours[window]!r}, expected {expected[window]!r}"
