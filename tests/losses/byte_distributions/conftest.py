"""Toy language models that are tables, and byte distributions by enumeration of all covers."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from losses.alignment.tokens import Tokens
from losses.alignment.vocabulary import Vocabulary
from losses.continuations import Continuation
from losses.prediction import ELEMENTS_IN_MEMORY, Head, Prediction

GOLDEN = Path(__file__).parents[2] / "golden" / "byte"
NUM_SYMBOLS = 257


@dataclass(frozen=True)
class ToyModel:
    """A vocabulary with an end token, and the next-token probabilities after each history."""

    vocabulary: Vocabulary
    after: Callable[[tuple[int, ...]], np.ndarray]

    @property
    def end(self) -> int:
        return next(i for i, role in self.vocabulary.roles.items() if role == "end")

    def row(self, history: Sequence[int]) -> torch.Tensor:
        with np.errstate(divide="ignore"):
            return torch.from_numpy(np.log(self.after(tuple(history))))

    def predict(
        self, ids: Sequence[int], *, scored: Any = None, elements: int = ELEMENTS_IN_MEMORY
    ) -> Prediction:
        """A start token, the ids, and the end of the turn as the last scored byte."""
        widths = [len(self.vocabulary.token_bytes[index] or b"") for index in ids]
        ends = np.array([-1, *np.cumsum(widths), sum(widths) + 1], dtype=np.int64)
        marks = ends > 0 if scored is None else np.asarray(scored)
        every = np.array([self.end, *ids, self.end])
        prediction = Prediction(
            tokens=Tokens(every, ends),
            hidden=torch.stack([self.row(ids[:n]) for n in range(len(ids) + 2)]),
            head=Head(nn.Identity(), len(self.vocabulary)),
            vocabulary=self.vocabulary,
            scored=torch.from_numpy(marks),
            elements_in_memory=elements,
        )
        prediction.continuations = ToyContinuations(self, every)
        return prediction

    def text(self, ids: Sequence[int]) -> bytes:
        return b"".join(self.vocabulary.token_bytes[index] or b"" for index in ids)


@dataclass(frozen=True)
class ToyContinuations:
    model: ToyModel
    ids: np.ndarray

    def hidden_after(self, continuations: Sequence[Continuation]) -> torch.Tensor:
        rows = [(*self.ids[1 : one.position + 1].tolist(), *one.ids) for one in continuations]
        return torch.stack([self.model.row(history) for history in rows])


def golden_model(tokens: list[dict[str, Any]], lm: dict[str, Any]) -> ToyModel:
    """The model of a golden file; with ``max_tokens`` a full history ends for sure."""
    kinds = {token["id"]: token["kind"] for token in tokens}
    contents = {token["id"]: bytes.fromhex(token["bytes_hex"]) for token in tokens}
    table = tuple(contents[i] if kinds[i] == "text" else None for i in range(len(tokens)))
    roles = {i: "end" if kind == "eos" else "other" for i, kind in kinds.items() if kind != "text"}
    vocabulary, order = Vocabulary(table, roles), lm["order"]
    last = np.zeros(len(tokens))
    last[[i for i, role in roles.items() if role == "end"][:1]] = 1

    def after(history: tuple[int, ...]) -> np.ndarray:
        if lm["max_tokens"] is not None and len(history) >= lm["max_tokens"]:
            return last
        key = history[len(history) - order :] if order else ()
        return np.array(lm["table"][",".join(map(str, key if len(history) >= order else history))])

    return ToyModel(vocabulary, after)


def random_model(seed: int, words: Sequence[bytes], order: int = 1) -> ToyModel:
    """Words, an end and a special token; each history of ``order`` tokens has its own row."""
    vocabulary = Vocabulary((*words, None, None), {len(words): "end", len(words) + 1: "other"})

    def after(history: tuple[int, ...]) -> np.ndarray:
        generator = np.random.default_rng([seed, *(i + 1 for i in history[-order:])])
        return generator.dirichlet(np.full(len(vocabulary), 0.6))

    return ToyModel(vocabulary, after)


def histories(model: ToyModel, text: bytes, start: int = 0) -> Iterator[tuple[int, ...]]:
    """All token sequences that spell a beginning of the text."""
    yield ()
    for index, word in enumerate(model.vocabulary.token_bytes):
        if word and text.startswith(word, start):
            for rest in histories(model, text, start + len(word)):
                yield (index, *rest)


def enumerated(
    model: ToyModel, text: bytes, kept: Callable[[tuple[int, ...]], bool] = lambda _: True
) -> np.ndarray:
    """The next symbol's distribution after a text, over all covers with such histories."""
    masses = np.zeros(NUM_SYMBOLS)
    for history in filter(kept, histories(model, text)):
        weight = np.prod([model.after(history[:n])[i] for n, i in enumerate(history)])
        rest = text[len(model.text(history)) :]
        for index, prob in enumerate(model.after(history)):
            word = model.vocabulary.token_bytes[index]
            if word and word.startswith(rest) and len(word) > len(rest):
                masses[word[len(rest)]] += weight * prob
            if word is None and not rest and model.vocabulary.roles[index] == "end":
                masses[256] += weight * prob
    return masses / masses.sum()


def golden_row(row: dict[str, Any]) -> np.ndarray:
    """Bytes and end of a golden distribution, specials left out."""
    masses = np.zeros(NUM_SYMBOLS)
    for byte, mass in row["bytes"].items():
        masses[int(byte)] = mass
    masses[256] = row["eos"]
    return masses / masses.sum()


@pytest.fixture(scope="session")
def byte_golden() -> Callable[[str], dict[str, Any]]:
    return lambda name: json.loads((GOLDEN / f"{name}.json").read_text())


@pytest.fixture(scope="session")
def toy() -> SimpleNamespace:
    """The functions of this module."""
    return SimpleNamespace(
        golden_model=golden_model,
        golden_row=golden_row,
        random_model=random_model,
        enumerated=enumerated,
        histories=histories,
    )
