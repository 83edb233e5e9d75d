"""From a teacher's signal to the pseudo-labels of one student, without any forward pass."""

from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Bool

from losses.alignment.coarser import character_chunks
from losses.alignment.tokens import Tokens
from losses.chunk_distributions.chunk_rows import ChunkRows, chunk_rows
from losses.reencoding.candidate_texts import numbers_of
from losses.reencoding.candidates import Candidates, Window, candidates_of, levels_of
from losses.reencoding.cells import Cells, cells_of, left_of
from losses.reencoding.pseudo_labels import (
    Entries,
    Own,
    PseudoLabels,
    combined,
    entries_of,
    padded,
)
from losses.reencoding.reencoder import Reencoder
from losses.reencoding.teacher_rows import TopTokensWithEntropy


@dataclass(frozen=True)
class Labelling:
    """How pseudo-labels are made.

    Args:
        k: continuations of a group.
        window: which teacher rows give them.
        own: where the student's own logits stand in the label.
        published: the paper's scores, collisions and unchecked texts.
    """

    k: int
    window: Window
    own: Own
    published: bool

    def labels(
        self,
        tokens: Tokens,
        scored: Bool[np.ndarray, "token"],
        top: TopTokensWithEntropy,
        reencoder: Reencoder,
    ) -> PseudoLabels:
        """The pseudo-labels of one document.

        Args:
            tokens: the student's view of the document.
            scored: its tokens that count.
            top: the teacher's signal.
            reencoder: of this pair.

        Raises:
            ValueError: the two sides end at different bytes.
        """
        join = partial(character_chunks, student=tokens, vocabulary=reencoder.student)
        rows = chunk_rows(tokens, scored, top, join)
        positions = np.flatnonzero(rows.alignment.student_chunk >= 0)
        found = candidates_of(top, rows, self.k, self.window)
        cells, left_out = self._cells(found, top, rows, tokens, reencoder)
        has_entry = np.bincount(cells.entries.row, minlength=len(positions)) > 0
        kept = np.ones_like(has_entry) if self.published else has_entry
        ids, scores = padded(cells.entries, kept, repeat=self.own == "rest")
        groups = rows.alignment.student_chunk[positions[kept]]
        return PseudoLabels(
            byte_ends=top.byte_ends,
            logprob=top.logprob,
            positions=positions[kept],
            groups=groups,
            entropy=cells.entropy[kept].astype(np.float32),
            ids=ids,
            scores=scores,
            rest=cells.rest[kept].astype(np.float32),
            own=self.own,
            num_left_out=left_out,
        )

    def _cells(
        self,
        found: Candidates,
        top: TopTokensWithEntropy,
        rows: ChunkRows,
        tokens: Tokens,
        reencoder: Reencoder,
    ) -> tuple[Cells, int]:
        """What is given to which token of which row, and how many candidates lost later tokens."""
        numbers, pieces = numbers_of(found, top, rows, tokens, reencoder), reencoder.pieces
        if self.published:
            kept = np.flatnonzero(reencoder.is_text[found.ids])
            raw = found.plus(levels_of(top, found)).only(kept)
            entries, left_out = entries_of(raw, numbers[kept], pieces, rows, None)
            last = combined(entries, len(reencoder.student), last=True)
            return _added(last, found, rows), left_out
        kept = np.flatnonzero(pieces.exact(numbers) & (pieces.lengths(numbers) > 0))
        written = tokens.ids[rows.alignment.student_chunk >= 0]
        entries, left_out = entries_of(found.only(kept), numbers[kept], pieces, rows, written)
        summed = combined(entries, len(reencoder.student), last=False)
        if self.own == "added":
            return _added(summed.above(found.least), found, rows), left_out
        most = np.log(len(reencoder.teacher) * rows.teacher_count)
        left = left_of(found, kept, most)
        return cells_of(summed, left, written, rows, len(reencoder.student)), left_out


def _added(entries: Entries, found: Candidates, rows: ChunkRows) -> Cells:
    """Scores for the student's own logits, which have no common rest."""
    group = np.repeat(np.arange(rows.num_chunks), rows.student_count)
    return Cells(entries, np.zeros(len(group)), found.entropy[group])
