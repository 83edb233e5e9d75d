"""Byte distributions from one pass over the document's own tokens.

``one_path`` reads each byte from the token that it lies in and drops the probability that the token
ends there: too sure, since it looks ahead at where the token ends. ``eot`` keeps that probability
as a 258th symbol: the exact chain rule. ``on_path`` adds what longer tokens before would give.

All are differentiable. Source: arXiv:2609.12303 calls the first two Marginalize-It and
End-Of-Token (read second hand).
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from losses.alignment.tokens import Tokens
from losses.alignment.vocabulary import Vocabulary
from losses.byte_distributions.asked import Answer, Asked, ask
from losses.byte_distributions.covers import (
    Entries,
    added_covers,
    path_between,
    path_logweights,
    path_walks,
)
from losses.byte_distributions.floor import floored
from losses.byte_distributions.reading import Reading, read
from losses.byte_distributions.sorted_vocabulary import (
    END_OF_TOKEN,
    SortedVocabulary,
    Walks,
    byte_table,
)
from losses.prediction import Prediction

NO_TOKENS = (np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))


@dataclass(frozen=True)
class EotRows:
    """Where the rows of the exact chain rule stand, in the order of the text.

    Args:
        positions: each row's byte; that behind the token for the row after its last byte.
        closes: True for the row after a token's last byte.
    """

    positions: Int64[np.ndarray, "row"]
    closes: Bool[np.ndarray, "row"]


def byte_positions(
    tokens: Tokens, scored: Bool[np.ndarray, "token"], vocabulary: Vocabulary
) -> Int64[np.ndarray, "row"]:
    """The document's bytes that get a row: those of scored tokens."""
    reading = read(tokens, scored, vocabulary)
    positions: Int64[np.ndarray, "row"] = reading.positions[reading.wanted]
    return positions


def eot_rows(tokens: Tokens, scored: Bool[np.ndarray, "token"], vocabulary: Vocabulary) -> EotRows:
    """The rows of ``eot_logprobs``."""
    reading = read(tokens, scored, vocabulary)
    _, slot, closes = _token_slots(reading, scored)
    behind = reading.positions[np.maximum(slot - 1, 0)] + 1
    return EotRows(np.where(closes, behind, reading.positions[slot]), closes)


def one_path_logprobs(prediction: Prediction) -> Float[Tensor, "row 257"]:
    """Rows at ``byte_positions``, renormalised without the end of the token."""
    return floored(one_path_masses(prediction)).to(_dtype(prediction))


def on_path_logprobs(prediction: Prediction) -> Float[Tensor, "row 257"]:
    """Rows at ``byte_positions``, summed over all covers whose history is the document's own."""
    return floored(on_path_masses(prediction)).to(_dtype(prediction))


def eot_logprobs(prediction: Prediction) -> Float[Tensor, "row 258"]:
    """Rows at ``eot_rows``: the log-probabilities of a token's symbols add up to the token's."""
    return floored(eot_masses(prediction)).to(_dtype(prediction))


def one_path_masses(prediction: Prediction) -> Float64[Tensor, "row 257"]:
    """The masses of the next symbols inside each byte's own token."""
    reading, table = reading_of(prediction)
    walks = _own_walks(reading, reading.walk(table))
    walks = walks.where(reading.wanted[walks.at])
    pieces, row = np.unique(reading.piece[walks.start], return_inverse=True)
    asked = Asked.of(table, row, walks.node)
    answer = ask(prediction, reading.tokens[pieces] - 1, asked)
    even = torch.zeros(len(row), dtype=torch.float64, device=prediction.device)
    return added_covers(reading, [(Entries(walks.start, walks.at, even), asked, answer)])


def on_path_masses(prediction: Prediction) -> Float64[Tensor, "row 257"]:
    """The masses of the next symbols over all covers on the path, each row up to a factor."""
    reading, table = reading_of(prediction)
    walks = path_walks(reading, reading.walk(table))
    walks = walks.where(reading.wanted[walks.at])
    return added_covers(reading, [ask_path(prediction, reading, table, walks).part])


def eot_masses(prediction: Prediction) -> Float64[Tensor, "row 258"]:
    """The masses of the next symbols inside each token, its end included."""
    reading, table = reading_of(prediction)
    piece, slot, _ = _token_slots(reading, prediction.scored.cpu().numpy())
    walks = reading.walk(table)
    stride = len(reading.content) + 1
    known = np.searchsorted(walks.start * stride + walks.at, reading.starts[piece] * stride + slot)
    pieces, row = np.unique(piece, return_inverse=True)
    asked = Asked.of(table, row, walks.node[known], chain=True)
    answer = ask(prediction, reading.tokens[pieces] - 1, asked)
    cell = asked.ranges.owner * (END_OF_TOKEN + 1) + asked.ranges.symbol
    masses = torch.zeros(len(row) * (END_OF_TOKEN + 1), dtype=torch.float64)
    masses = masses.to(prediction.device)
    masses = masses.index_add(0, torch.from_numpy(cell).to(masses.device), answer.masses)
    return masses.view(len(row), END_OF_TOKEN + 1)


def reading_of(prediction: Prediction) -> tuple[Reading, SortedVocabulary]:
    """The document's bytes as the model's tokens read them, and the vocabulary sorted."""
    scored = prediction.scored.cpu().numpy()
    reading = read(prediction.tokens, scored, prediction.vocabulary)
    return reading, byte_table(prediction.vocabulary, reading.terminators)


@dataclass(frozen=True)
class PathAnswer:
    """What the document's own histories say.

    Args:
        part: entries, what was asked of them and the answer.
        others: log-probability (nats) of the other tokens that were asked for.
    """

    part: tuple[Entries, Asked, Answer]
    others: Float64[Tensor, "other"]


def ask_path(
    prediction: Prediction,
    reading: Reading,
    table: SortedVocabulary,
    walks: Walks,
    others: tuple[Int64[np.ndarray, "other"], Int64[np.ndarray, "other"]] = NO_TOKENS,
) -> PathAnswer:
    """Ask the document's own histories at the ends of these walks.

    Args:
        prediction: of the document.
        reading: of the document.
        table: the vocabulary.
        walks: each begins where one of the document's tokens does.
        others: the walk and the id of tokens whose log-probability is asked for as well.
    """
    piece, (entry, ids) = reading.piece[walks.start], others
    needed = np.flatnonzero(path_between(reading, walks.start, walks.at))
    row = np.searchsorted(needed, piece)
    token_row = np.append(np.arange(len(needed)), row[entry])
    by_row = np.argsort(token_row, kind="stable")
    tokens = np.append(reading.ids[needed], ids)
    asked = Asked.of(table, row, walks.node).with_tokens(token_row[by_row], tokens[by_row])
    answer = ask(prediction, reading.tokens[needed] - 1, asked)
    place = torch.from_numpy(np.argsort(by_row)).to(answer.tokens.device)
    own, found = answer.tokens[place].split([len(needed), len(ids)])
    weights = path_logweights(own, needed, len(reading.tokens))
    of_piece = torch.from_numpy(piece).to(weights.device)
    return PathAnswer((Entries(piece, walks.at, weights[of_piece]), asked, answer), found)


def _own_walks(reading: Reading, walks: Walks) -> Walks:
    """The walks that stay inside one of the document's own tokens."""
    own = reading.starts[reading.piece[walks.at]] == walks.start
    return walks.where(own & reading.is_start[walks.start])


def _token_slots(
    reading: Reading, scored: Bool[np.ndarray, "token"]
) -> tuple[Int64[np.ndarray, "row"], Int64[np.ndarray, "row"], Bool[np.ndarray, "row"]]:
    """Piece and slot of each row of the exact chain rule, and whether it closes the token."""
    pieces = np.flatnonzero(scored[reading.tokens])
    first, sizes = reading.starts[pieces], reading.sizes[pieces]
    counts = sizes + 1  # the end of a turn has one row as well
    piece = np.repeat(pieces, counts)
    slot = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts - first, counts)
    ends = slot == reading.starts[piece] + reading.sizes[piece]
    spaces = (reading.positions[np.minimum(slot, len(reading.content) - 1)] < 0) & ~ends
    closes = ends & (reading.sizes[piece] > 0)
    return piece[~spaces], slot[~spaces], closes[~spaces]


def _dtype(prediction: Prediction) -> torch.dtype:
    return torch.promote_types(prediction.hidden.dtype, torch.float32)
