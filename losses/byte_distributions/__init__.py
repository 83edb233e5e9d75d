"""Next-byte distributions from next-token distributions.

sorted_vocabulary  tokens sorted by bytes: a prefix is a range of columns
reading            the document's bytes as the model's tokens read them
masses             sums over ranges of sorted probabilities, differentiable
asked              what a converter reads from rows, in chunks
covers             the sum over token histories that cover a byte
paths              one pass: ``one_path``, ``eot``, ``on_path``
branches           one more pass over tokens that leave the path
beam               segmentations followed byte by byte
floor              rows made finite; which bytes were lost
convert            the teacher's signal
"""

from losses.byte_distributions.convert import Converter, convert
from losses.byte_distributions.floor import FLOOR, floored, is_lost, num_lost, targets
from losses.byte_distributions.paths import (
    EotRows,
    byte_positions,
    eot_logprobs,
    eot_rows,
    on_path_logprobs,
    one_path_logprobs,
)
from losses.byte_distributions.sorted_vocabulary import (
    END,
    END_OF_TOKEN,
    SortedVocabulary,
    byte_table,
)

__all__ = [
    "END",
    "END_OF_TOKEN",
    "FLOOR",
    "Converter",
    "EotRows",
    "SortedVocabulary",
    "byte_positions",
    "byte_table",
    "convert",
    "eot_logprobs",
    "eot_rows",
    "floored",
    "is_lost",
    "num_lost",
    "on_path_logprobs",
    "one_path_logprobs",
    "targets",
]
