"""Coarser chunks made of the finest ones: neighbours are joined until one of them closes.

Text is joined with text only: never over an end of turn, nor over template tokens of both sides.
"""

import numpy as np
from jaxtyping import Bool, Int, Int64

from losses.alignment.bias import PairBias
from losses.alignment.chunks import Alignment, group_chunks, merge_chunks
from losses.alignment.tokens import Tokens, byte_starts
from losses.alignment.vocabulary import Vocabulary

SPACE = ord(" ")
CONTINUATION = (0x80, 0xBF)
"""Bytes from the first to the last of these carry a character of UTF-8 on."""


def space_chunks(alignment: Alignment, student: Tokens, vocabulary: Vocabulary) -> Alignment:
    """Join chunks until a space follows: words with the space before them.

    Only the byte 0x20 counts; a line break does not part words.

    Args:
        alignment: the finest chunks.
        student: the student's tokens, which also tell what the document's bytes are.
        vocabulary: the student's.

    Source: ``get_space_alignments`` of tokenkit, the code of Minixhofer et al. 2025,
    arXiv:2503.20083.

    >>> from losses.alignment.chunks import align
    >>> words = Vocabulary((b"a", b" b", b"c"))
    >>> tokens = Tokens(np.array([0, 2, 1, 2]), np.array([1, 2, 4, 5]))
    >>> fine = align(tokens.byte_ends, tokens.byte_ends)
    >>> space_chunks(fine, tokens, words).student_chunk.tolist()
    [0, 0, 1, 1]
    """
    first = _first(alignment.student_chunk)[1:]
    follows = np.append(_first_bytes(student, vocabulary)[first] == SPACE, True)
    return _join_text(alignment, student, vocabulary, follows)


def character_chunks(alignment: Alignment, student: Tokens, vocabulary: Vocabulary) -> Alignment:
    """Join chunks until a character of UTF-8 ends: each chunk is a text.

    Args:
        alignment: the finest chunks.
        student: the student's tokens, which also tell what the document's bytes are.
        vocabulary: the student's.

    >>> from losses.alignment.chunks import align
    >>> pieces = Vocabulary(("é".encode()[:1], "é".encode()[1:], b"a"))
    >>> tokens = Tokens(np.array([2, 0, 1]), np.array([1, 2, 3]))
    >>> fine = align(tokens.byte_ends, tokens.byte_ends)
    >>> character_chunks(fine, tokens, pieces).student_chunk.tolist()
    [0, 1, 1]
    """
    first = _first(alignment.student_chunk)[1:]
    following = _first_bytes(student, vocabulary)[first]
    begins = (following < CONTINUATION[0]) | (following > CONTINUATION[1])
    return _join_text(alignment, student, vocabulary, np.append(begins, True))


def unbiased_chunks(
    alignment: Alignment,
    student: Tokens,
    vocabulary: Vocabulary,
    teacher_ids: Int[np.ndarray, "teacher_token"],
    bias: PairBias,
    threshold: float,
) -> Alignment:
    """Join chunks until the two last tokens rule out nearly the same continuations.

    Args:
        alignment: the finest chunks.
        student: the student's tokens.
        vocabulary: the student's.
        teacher_ids: the teacher's tokens.
        bias: how much each side alone rules out after its last token.
        threshold: a chunk closes where both probabilities are at most this.

    Source: Minixhofer et al. 2025, arXiv:2503.20083, appendix F.
    """
    last = (teacher_ids[alignment.teacher_last], student.ids[alignment.student_last])
    return _join_text(alignment, student, vocabulary, bias.larger(*last) <= threshold)


def _join_text(
    alignment: Alignment,
    student: Tokens,
    vocabulary: Vocabulary,
    closes: Bool[np.ndarray, "chunk"],
) -> Alignment:
    closes = closes[: alignment.num_chunks] | ~_text_follows(alignment, student, vocabulary)
    return merge_chunks(alignment, group_chunks(np.ones_like(closes), closes))


def _text_follows(
    alignment: Alignment, student: Tokens, vocabulary: Vocabulary
) -> Bool[np.ndarray, "chunk"]:
    """True for a chunk of text that the next chunk carries on."""
    is_text = vocabulary.byte_table.widths[student.ids] > 0
    follows = is_text[alignment.student_last[:-1]] & is_text[alignment.student_last[1:]]
    gaps = [
        _first(chunk)[1:] > last[:-1] + 1
        for chunk, last in (
            (alignment.student_chunk, alignment.student_last),
            (alignment.teacher_chunk, alignment.teacher_last),
        )
    ]
    return np.append(follows & ~(gaps[0] & gaps[1]), False)[: alignment.num_chunks]


def _first(chunk: Int64[np.ndarray, "token"]) -> Int64[np.ndarray, "chunk"]:
    """Index of each chunk's first token."""
    inside = np.flatnonzero(chunk >= 0)
    return inside[np.diff(chunk[inside], prepend=-1) > 0]


def _first_bytes(tokens: Tokens, vocabulary: Vocabulary) -> Int64[np.ndarray, "token"]:
    """The document's byte at which each token begins; -1 for one that is no text.

    A token may stand for fewer bytes than its piece has: a space that the tokenizer puts before
    a text is not in the document.
    """
    table = vocabulary.byte_table
    covered = np.maximum(tokens.byte_ends, 0) - byte_starts(tokens.byte_ends)
    widths = table.widths[tokens.ids]
    dropped = np.maximum(widths - covered, 0)
    found = table.content.take(table.starts[tokens.ids] + dropped, mode="clip")
    return np.where((covered > 0) & (widths > 0), found.astype(np.int64), -1)
