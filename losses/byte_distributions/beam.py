"""A beam over segmentations, byte by byte: the published converter of BLD.

A state is a token history with the bytes of an unfinished token. Before each byte unlikely states
are dropped; each state reads the byte, and where its bytes are a token it ends it and reads the
byte with the next one. The model is asked about each new history.

Where no state can read the document's byte the published code goes back some bytes and commits the
longest tokens. Here the beam starts again with the document's own tokens up to that byte.

Source: Vieira et al. 2024, arXiv:2412.03719 (algorithm); genlm-bytes (pruning order).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from losses.alignment.trie import ROOT
from losses.byte_distributions.covers import NUM_SYMBOLS, path_between, path_walks
from losses.byte_distributions.masses import RARE
from losses.byte_distributions.paths import reading_of
from losses.byte_distributions.reading import Reading
from losses.byte_distributions.sorted_vocabulary import SortedVocabulary
from losses.continuations import Continuation, Continuations
from losses.prediction import Prediction


@dataclass(frozen=True)
class SortedRow:
    """What the model says after a history, by sorted column.

    Args:
        logprobs: nats.
        sums: masses of all columns before each one, and of all.
    """

    logprobs: Float64[np.ndarray, "column"]
    sums: Float64[np.ndarray, "column_plus_one"]

    def masses(
        self, low: Int64[np.ndarray, "range"], high: Int64[np.ndarray, "range"]
    ) -> Float64[np.ndarray, "range"]:
        """The mass of the columns ``low : high``; where all are rare, added up entry by entry."""
        found: Float64[np.ndarray, "range"] = self.sums[high] - self.sums[low]
        if found.sum() >= RARE:
            return found
        spans = map(slice, low.tolist(), high.tolist())
        return np.array([np.exp(self.logprobs[span]).sum() for span in spans], dtype=np.float64)


@dataclass(frozen=True)
class State:
    """A history and the node of the bytes read since.

    Args:
        history: its tokens, as what they add to the document's.
        row: what the model says after it.
        node: of the unfinished token.
        history_logprob: nats, up to a constant of the beam.
        logweight: that, and the mass of all tokens that begin with the unfinished one.
    """

    history: Continuation
    row: SortedRow
    node: int
    history_logprob: float
    logweight: float


def beam_masses(
    prediction: Prediction, continuations: Continuations, width: int, epsilon: float
) -> Float64[Tensor, "row 257"]:
    """The masses of the next symbols, each row up to a factor.

    Args:
        prediction: of the document.
        continuations: the model.
        width: histories kept at each byte.
        epsilon: smallest share of the mass with which one is kept.
    """
    reading, table = reading_of(prediction)
    beam = Beam(prediction, continuations, table, width, float(np.log(max(epsilon, 1e-300))))
    rows = [
        row for start, stop in _stretches(reading, table) for row in beam.run(reading, start, stop)
    ]
    return torch.from_numpy(np.stack(rows) if rows else np.zeros((0, NUM_SYMBOLS)))


class Beam:
    """One document's beam; rows of the model are kept while their states live.

    Args:
        prediction: of the document, or of what there is of it so far.
        model: the same model, for other histories.
        table: its vocabulary.
        width: histories kept at each byte.
        log_epsilon: log of the smallest share of the mass with which one is kept.
    """

    def __init__(
        self,
        prediction: Prediction,
        model: Continuations,
        table: SortedVocabulary,
        width: int,
        log_epsilon: float,
    ) -> None:
        self.prediction = prediction
        self.model = model
        self.table = table
        self.width = width
        self.log_epsilon = log_epsilon
        self.ids = prediction.tokens.ids
        self.rows: dict[Continuation, SortedRow] = {}

    def run(
        self, reading: Reading, start: int, stop: int
    ) -> Iterator[Float64[np.ndarray, "symbol"]]:
        """Rows of the wanted slots from ``start`` (a token's first) to ``stop``, the border."""
        states = [self._on_path(reading, start)]
        for slot in range(start, stop + 1):
            ended = self.ended(states)
            if reading.wanted[slot]:
                yield self.next_symbols(states, ended)
            if slot < stop:
                byte = int(reading.content[slot])
                states = self.advanced(states, byte) or [self._on_path(reading, slot + 1)]
                alive = {state.history for state in states}
                self.rows = {history: self.rows[history] for history in alive}

    def _on_path(self, reading: Reading, slot: int) -> State:
        """The document's own history, and the bytes of its token before the slot."""
        piece = int(reading.piece[slot])
        history = Continuation(int(reading.tokens[piece]) - 1, ())
        [row] = self._rows_of([history])
        node = ROOT
        for byte in reading.content[int(reading.starts[piece]) : slot]:
            node = self._child(node, int(byte))
        return State(history, row, node, 0.0, _log(self._mass(row, node)))

    def begin(self, position: int) -> State:
        """The document's own tokens up to and with this position, and no byte since."""
        history = Continuation(position, ())
        [row] = self._rows_of([history])
        return State(history, row, ROOT, 0.0, 0.0)

    def advanced(self, states: list[State], byte: int) -> list[State]:
        """The states after a byte, the heaviest first."""
        kept = self._pruned(states)
        moved = (self._moved(state, byte) for state in [*kept, *self.ended(kept)])
        alive = [state for state in moved if state is not None]
        return sorted(alive, key=lambda state: -state.logweight)

    def _pruned(self, states: list[State]) -> list[State]:
        limit = _logsumexp(state.logweight for state in states) + self.log_epsilon
        heavy = [state for state in states if state.logweight > limit]
        return heavy[: self.width]

    def ended(self, states: list[State]) -> list[State]:
        """The states whose bytes are a token, with that token ended."""
        if not states:
            return []
        limit = _logsumexp(state.logweight for state in states) + self.log_epsilon
        found = []
        for state in states:
            first, whole = self.table.trie.first[state.node], self.table.trie.whole[state.node]
            for column in range(first, first + whole):
                logweight = state.history_logprob + float(state.row.logprobs[column])
                if logweight > limit:
                    token = int(self.table.order[column])
                    found.append((self._longer(state.history, token), logweight))
        rows = self._rows_of([history for history, _ in found])
        return [
            State(history, row, ROOT, logweight, logweight)
            for (history, logweight), row in zip(found, rows, strict=True)
        ]

    def _moved(self, state: State, byte: int) -> State | None:
        node = self._child(state.node, byte)
        mass = self._mass(state.row, node) if node else 0.0
        if mass <= 0:
            return None
        logweight = state.history_logprob + _log(mass)
        return State(state.history, state.row, node, state.history_logprob, logweight)

    def next_symbols(
        self, states: list[State], ended: list[State]
    ) -> Float64[np.ndarray, "symbol"]:
        """Masses of the symbols after all states, relative to the heaviest history."""
        both = [*states, *ended]
        largest = max(state.history_logprob for state in both)
        nodes = np.array([state.node for state in both])
        ranges = self.table.symbols_after(nodes)
        masses = np.zeros(NUM_SYMBOLS)
        for place, state in enumerate(both):
            own = slice(*np.searchsorted(ranges.owner, [place, place + 1]))
            mass = state.row.masses(ranges.low[own], ranges.high[own])
            factor = np.exp(state.history_logprob - largest)
            masses[ranges.symbol[own]] += factor * mass
        return masses

    def _longer(self, history: Continuation, token: int) -> Continuation:
        """The history with one more token; the document's own tokens are never written out."""
        after = history.position + 1
        if not history.ids and after < len(self.ids) and self.ids[after] == token:
            return Continuation(after, ())
        return Continuation(history.position, (*history.ids, token))

    def _rows_of(self, histories: list[Continuation]) -> list[SortedRow]:
        """What the model says after each history; new ones are asked about together."""
        new = [history for history in dict.fromkeys(histories) if history not in self.rows]
        if new:
            logprobs = torch.log_softmax(self.prediction.head.logits(self._hidden(new)), -1)
            ordered = logprobs.double().cpu().numpy()[:, self.table.order]
            sums = np.pad(np.cumsum(np.exp(ordered), axis=-1), ((0, 0), (1, 0)))
            rows = map(SortedRow, ordered, sums)
            self.rows |= dict(zip(new, rows, strict=True))
        return [self.rows[history] for history in histories]

    def _hidden(self, histories: list[Continuation]) -> Tensor:
        """Of the document's own histories as the prediction has them."""
        positions = [history.position for history in histories]
        hidden = self.prediction.hidden[torch.tensor(positions, device=self.prediction.device)]
        others = [place for place, history in enumerate(histories) if history.ids]
        if others:
            asked = self.model.hidden_after([histories[place] for place in others])
            hidden[torch.tensor(others, device=hidden.device)] = asked
        return hidden

    def _child(self, node: int, byte: int) -> int:
        """The node one byte further down; the root if there is none."""
        child, found = self.table.trie.child(np.array([node]), np.array([byte], dtype=np.uint8))
        return int(child[0]) if found[0] else ROOT

    def _mass(self, row: SortedRow, node: int) -> float:
        trie = self.table.trie
        return float(row.masses(trie.first[[node]], trie.last[[node]])[0])


def _stretches(reading: Reading, table: SortedVocabulary) -> Iterator[tuple[int, int]]:
    """First and last slot of what must be read for each stretch with wanted slots."""
    walks = path_walks(reading, reading.walk(table))
    walks = walks.where(reading.wanted[walks.at])
    needed = np.flatnonzero(path_between(reading, walks.start, walks.at))
    starts = reading.starts[needed]
    stops, first = np.unique(reading.stops[starts], return_index=True)
    yield from zip(starts[first].tolist(), stops.tolist(), strict=True)


def _logsumexp(values: Iterable[float]) -> float:
    array = np.fromiter(values, dtype=np.float64)
    largest = array.max()
    if np.isinf(largest):
        return float(largest)
    return float(largest + np.log(np.exp(array - largest).sum()))


def _log(mass: float) -> float:
    return float(np.log(mass)) if mass > 0 else -np.inf
