"""Build the projection W from two vocabularies.

A student token with the bytes, or the role, of a teacher token is worth that token. Any other one
is cut into teacher tokens, and the first ones share its weight as 0.9, 0.09, 0.009 …: a teacher
that reads the same bytes decides on the first piece first.

Everything is settled by bytes: ``Ġthe`` and ``▁the`` are equal, a space that a tokenizer adds in
front has no place in a row, and bytes that are no text are cut greedily into the longest tokens.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np
from jaxtyping import Float64, Int64

from losses.alignment.projection import Projection, ProjectionOptions
from losses.alignment.roles import role_partners, second_ends
from losses.alignment.trie import Trie
from losses.alignment.vocabulary import Vocabulary

Encode: TypeAlias = Callable[[Sequence[str]], Iterable[Sequence[int]]]
"""Texts to token ids, as inside a document; ids that do not join to a text's bytes are not used."""

Entries: TypeAlias = tuple[Int64[np.ndarray, "_"], Int64[np.ndarray, "_"], Float64[np.ndarray, "_"]]
"""Student ids, teacher ids, weights."""

DECAY = 0.1
"""Each further piece of a token weighs this much of the one before."""


def build_projection(
    student: Vocabulary,
    teacher: Vocabulary,
    encode_teacher: Encode,
    options: ProjectionOptions,
    encode_student: Encode | None = None,
) -> Projection:
    """W of a pair.

    ``encode_student`` tells which of several student tokens with the same bytes is written; without
    it the lowest id is, and there is no reverse pass.

    Raises:
        ValueError: the reverse pass was asked for without ``encode_student``.

    Source: X-Token, arXiv:2605.21699, section on the projection matrix; the rows of tokens that
        are no text, and of tokens with a role, are ours.

    >>> student = Vocabulary((None, b"201", b" a", b"ab"), {0: "end"})
    >>> teacher = Vocabulary((b"0", b"1", b"2", b" a", None, b"a"), {4: "end"})
    >>> cut = {"201": [2, 0, 1]}
    >>> w = build_projection(
    ...     student, teacher, lambda texts: [cut.get(t, ()) for t in texts], ProjectionOptions(2)
    ... )
    >>> [{t: round(x, 4) for t, x in w.row(s).items()} for s in range(4)]
    [{4: 1.0}, {2: 0.9091, 0: 0.0909}, {3: 1.0}, {5: 1.0}]
    >>> w.exact.tolist()
    [True, False, True, False]
    """
    exact = exact_matches(student, teacher, encode_teacher)
    split = np.array([i for i, b in enumerate(student.token_bytes) if b and exact[i] < 0], int)
    passes = [
        share_weight(split, retokenize(student, split, teacher, encode_teacher, options.top_k))
    ]
    if options.reverse:
        passes.append(reverse_entries(student, teacher, exact, encode_student, options.top_k))
    assembled = _assemble(exact, len(teacher), passes, options.top_k)
    is_first = _written_twins(student, encode_student or _unknown) == np.arange(len(student))
    is_first[list(second_ends(student, teacher))] = False
    return replace(assembled, exact=assembled.exact & is_first)


def exact_matches(
    student: Vocabulary, teacher: Vocabulary, encode_teacher: Encode
) -> Int64[np.ndarray, "student"]:
    """The teacher token with each student token's bytes or role (``roles``), -1 for none.

    Of several teacher tokens with the same bytes (SentencePiece has ``a`` and ``<0x61>``) the one
    that the teacher's tokenizer writes is taken: the model never predicts the other one.
    """
    by_role = role_partners(student, teacher)
    written = _written_twins(teacher, encode_teacher)
    found = np.full(len(student), -1)
    for index, content in enumerate(student.token_bytes):
        if content is None:
            found[index] = by_role.get(index, -1)
        elif content and (ids := teacher.ids_of(content)):
            found[index] = written[ids[0]]
    return found


def retokenize(
    source: Vocabulary,
    ids: Int64[np.ndarray, "token"],
    target: Vocabulary,
    encode: Encode,
    limit: int,
) -> Int64[np.ndarray, "token limit"]:
    """The first ``limit`` target tokens of each source token, -1 behind the last.

    Text is cut by the target's own tokenizer, all other bytes by ``Trie.cover``.
    """
    contents = [source.token_bytes[index] or b"" for index in ids.tolist()]
    texts = {place: text for place, b in enumerate(contents) if (text := _text(b)) is not None}
    rows = np.full((len(ids), limit), -1)
    written, padding = [], [-1] * limit
    covered = np.ones(len(ids), dtype=bool)
    for place, pieces in zip(texts, encode(list(texts.values())), strict=True):
        if _join(target, pieces) == contents[place]:
            covered[place] = False
            written.append([*pieces[:limit], *padding[len(pieces) :]])
    if written:
        rows[~covered] = written
    rest = np.flatnonzero(covered)
    if len(rest):
        twins = np.append(_written_twins(target, encode), -1)  # the entry at -1 keeps -1
        rows[rest] = twins[Trie.build(target).cover([contents[i] for i in rest], limit)]
    return rows


def reverse_entries(
    student: Vocabulary,
    teacher: Vocabulary,
    exact: Int64[np.ndarray, "student"],
    encode_student: Encode | None,
    top_k: int,
) -> Entries:
    """What the teacher's tokens without an exact twin give to the rows of their student pieces.

    Raises:
        ValueError: ``encode_student`` is None.
    """
    if encode_student is None:
        raise ValueError("projection: reverse needs the student's tokenizer; pass encode_student")
    twins = set(exact.tolist())
    split = np.array([i for i, b in enumerate(teacher.token_bytes) if b and i not in twins], int)
    pieces = retokenize(teacher, split, student, encode_student, top_k)
    teacher_ids, student_ids, weights = share_weight(split, pieces)
    free = exact[student_ids] < 0
    return student_ids[free], teacher_ids[free], weights[free]


def share_weight(
    ids: Int64[np.ndarray, "token"], pieces: Int64[np.ndarray, "token piece"]
) -> Entries:
    """Each token beside its pieces, whose weights fall by ``DECAY`` and sum to 1."""
    present = pieces >= 0
    weights: Float64[np.ndarray, "token piece"]
    weights = np.where(present, DECAY ** np.arange(pieces.shape[1]), 0.0)
    shares = weights / np.maximum(weights.sum(1, keepdims=True), 1.0)
    return np.repeat(ids, present.sum(1)), pieces[present], shares[present]


def _assemble(
    exact: Int64[np.ndarray, "student"], num_teacher: int, passes: Sequence[Entries], top_k: int
) -> Projection:
    """Sum equal entries, keep each row's heaviest (of equal ones the lower id), norm the rows."""
    matched = np.flatnonzero(exact >= 0)
    parts = [*passes, (matched, exact[matched], np.ones(len(matched)))]
    students, teachers, values = (np.concatenate(part) for part in zip(*parts, strict=True))
    cells, place = np.unique(students * num_teacher + teachers, return_inverse=True)
    values = np.bincount(place, values, len(cells))
    students, teachers = np.divmod(cells, num_teacher)
    order = np.lexsort((teachers, -values, students))
    students, teachers, values = students[order], teachers[order], values[order]
    kept = _rank(students) < top_k
    students, teachers, values = students[kept], teachers[kept], values[kept]
    values = values / np.bincount(students, values, len(exact))[students]
    offsets = np.append(0, np.cumsum(np.bincount(students, minlength=len(exact))))
    return Projection(offsets, teachers, values.astype(np.float32), num_teacher, exact >= 0)


def _rank(rows: Int64[np.ndarray, "entry"]) -> Int64[np.ndarray, "entry"]:
    """Each entry's place within its row; rows never fall."""
    return np.arange(len(rows)) - np.searchsorted(rows, rows)


def _written_twins(vocabulary: Vocabulary, encode: Encode) -> Int64[np.ndarray, "id"]:
    """For each id the one of its bytes that the tokenizer writes, else the lowest of them."""
    twins = np.arange(len(vocabulary))
    several: dict[str, tuple[int, ...]] = {}
    for index, content in enumerate(vocabulary.token_bytes):
        if content and (ids := vocabulary.ids_of(content))[0] != index:
            twins[index] = ids[0]
            if (text := _text(content)) is not None:
                several[text] = ids
    for ids, pieces in zip(several.values(), encode(list(several)), strict=True):
        if len(pieces) == 1 and pieces[0] in ids:
            twins[list(ids)] = pieces[0]
    return twins


def _unknown(texts: Sequence[str]) -> list[Sequence[int]]:
    return [()] * len(texts)


def _join(vocabulary: Vocabulary, ids: Sequence[int]) -> bytes | None:
    """The tokens' bytes; None if one of them has none."""
    pieces = [vocabulary.token_bytes[index] for index in ids]
    known = [piece for piece in pieces if piece is not None]
    return b"".join(known) if len(known) == len(pieces) else None


def _text(content: bytes) -> str | None:
    try:
        return content.decode()
    except UnicodeDecodeError:
        return None
