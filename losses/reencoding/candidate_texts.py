"""The texts of the candidates, joined from bytes, and their numbers in the student's tokens.

A candidate's text begins where its group begins. Where a tokenizer puts a space before a text, the
document does not have it: the teacher's is taken off, the student's is put there.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Int, Int64

from losses.alignment.tokens import Tokens, byte_starts
from losses.alignment.vocabulary import Vocabulary
from losses.chunk_distributions.chunk_rows import ChunkRows
from losses.reencoding.candidates import Candidates
from losses.reencoding.reencoder import ALONE, SPACE, Front, Reencoder
from losses.signals import TopTokens


def numbers_of(
    found: Candidates, top: TopTokens, rows: ChunkRows, tokens: Tokens, reencoder: Reencoder
) -> Int64[np.ndarray, "candidate"]:
    """Each candidate's row of ``Reencoder.pieces``.

    Where both sides end a turn each writes its own special token: these two are the same, whatever
    their roles are called.
    """
    realised = np.zeros(len(top.byte_ends), dtype=np.int64)
    realised[top.known] = top.realised
    fronts = _fronts(realised, top, rows, tokens, reencoder)
    has_front = np.zeros(len(realised), dtype=bool)
    has_front[list(fronts)] = True
    behind = np.flatnonzero(has_front[found.token])
    pairs = zip(found.token[behind].tolist(), found.ids[behind].tolist(), strict=True)
    keys = [reencoder.key(fronts[token], index) for token, index in pairs]
    theirs, ours = realised[rows.teacher_first], tokens.ids[rows.student_first]
    widths = _widths(theirs, reencoder.teacher) + _widths(ours, reencoder.student)
    special = rows.single & (widths == 0)
    ending = np.flatnonzero(special[found.group] & (found.ids == theirs[found.group]))
    keys += [(b"", index) for index in ours[found.group[ending]].tolist()]
    numbers = found.ids.copy()
    numbers[np.concatenate([behind, ending])] = reencoder.numbers(keys)
    return numbers


def _fronts(
    realised: Int64[np.ndarray, "teacher_token"],
    top: TopTokens,
    rows: ChunkRows,
    tokens: Tokens,
    reencoder: Reencoder,
) -> dict[int, Front]:
    """By position of the teacher token: only where a candidate is not its own text."""
    drops = _artificial(realised, top.byte_ends, reencoder.teacher)[rows.teacher_first]
    puts = _artificial(tokens.ids, tokens.byte_ends, reencoder.student)[rows.student_first]
    special = (rows.teacher_count > 1) | drops | puts
    chunk = rows.alignment.teacher_chunk
    fronts: dict[int, Front] = {}
    for group in np.flatnonzero(special).tolist():
        first, last = rows.teacher_first[group], rows.alignment.teacher_last[group]
        members = (first + np.flatnonzero(chunk[first : last + 1] == group)).tolist()
        written = [reencoder.teacher.token_bytes[i] or b"" for i in realised[members]]
        put = SPACE if puts[group] else b""
        walk = _walk(written, put, drops_space=bool(drops[group]))
        fronts.update(zip(members, walk, strict=True))
    return {token: front for token, front in fronts.items() if front != ALONE}


def _walk(written: list[bytes], put: bytes, *, drops_space: bool) -> Iterator[Front]:
    """What stands before each token of a group."""
    joined = b""
    for content in written:
        if joined or not drops_space:
            yield Front(put + joined, drops_space=False)
        else:
            yield Front(put, drops_space=True)
        joined += content.removeprefix(SPACE) if drops_space and not joined else content


def _artificial(
    ids: Int64[np.ndarray, "token"], byte_ends: Int[np.ndarray, "token"], vocabulary: Vocabulary
) -> Bool[np.ndarray, "token"]:
    """True for a token with a space in front that the document does not have."""
    ends = byte_ends.astype(np.int64)
    covered = np.maximum(ends, 0) - byte_starts(ends)
    wider: Bool[np.ndarray, "token"] = (covered > 0) & (_widths(ids, vocabulary) > covered)
    return wider


def _widths(ids: Int64[np.ndarray, "token"], vocabulary: Vocabulary) -> Int64[np.ndarray, "token"]:
    widths: Int64[np.ndarray, "token"] = vocabulary.byte_table.widths[ids]
    return widths
