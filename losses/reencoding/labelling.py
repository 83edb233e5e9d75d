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
from losses.reencoding.pseudo_labels import Entries, PseudoLabels, combined, entries_of, padded
from losses.reencoding.reencoder import Reencoder
from losses.reencoding.teacher_rows import TopTokensWithEntropy


@dataclass(frozen=True)
class Labelling:
    """How pseudo-labels are made.

    Args:
        k: continuations of a group.
        window: which teacher rows give them.
        published: the paper's scores, collisions and unchecked texts.
    """

    k: int
    window: Window
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
        entries, left_out = self._entries(found, top, rows, tokens, reencoder)
        has_entry = np.bincount(entries.row, minlength=len(positions)) > 0
        kept = np.ones_like(has_entry) if self.published else has_entry
        ids, scores = padded(entries, kept)
        groups = rows.alignment.student_chunk[positions[kept]]
        return PseudoLabels(
            byte_ends=top.byte_ends,
            logprob=top.logprob,
            positions=positions[kept],
            groups=groups,
            entropy=found.entropy[groups].astype(np.float32),
            ids=ids,
            scores=scores,
            num_left_out=left_out,
        )

    def _entries(
        self,
        found: Candidates,
        top: TopTokensWithEntropy,
        rows: ChunkRows,
        tokens: Tokens,
        reencoder: Reencoder,
    ) -> tuple[Entries, int]:
        """What is added to which token of which row, and how many candidates lost later tokens."""
        numbers, pieces = numbers_of(found, top, rows, tokens, reencoder), reencoder.pieces
        if self.published:
            kept = np.flatnonzero(reencoder.is_text[found.ids])
            raw = found.plus(levels_of(top, found)).only(kept)
            entries, left_out = entries_of(raw, numbers[kept], pieces, rows, None)
            return combined(entries, len(reencoder.student), last=True), left_out
        kept = np.flatnonzero(pieces.exact(numbers))
        written = tokens.ids[rows.alignment.student_chunk >= 0]
        entries, left_out = entries_of(found.only(kept), numbers[kept], pieces, rows, written)
        summed = combined(entries, len(reencoder.student), last=False)
        return summed.above(found.least), left_out
