"""Small predictions whose hidden states are their logits (the head's linear map is identity)."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from torch import nn

from losses.alignment.projection import Projection
from losses.alignment.tokens import Tokens
from losses.alignment.vocabulary import Vocabulary
from losses.base import Pair
from losses.chunk_distributions.matched import matched_of
from losses.document import text_document
from losses.methods import method_class
from losses.prediction import ELEMENTS_IN_MEMORY, Head, Prediction

settings.register_profile(
    "losses",
    database=None,
    deadline=None,
    derandomize=True,
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
settings.load_profile("losses")

GOLDEN = Path(__file__).parents[1] / "golden"


def plain_vocabulary(size: int) -> Vocabulary:
    """An end token, then words (even ids) and word pieces (odd ids)."""
    words = [f"{'' if index % 2 else ' '}w{index}".encode() for index in range(1, size)]
    return Vocabulary((None, *words), {0: "end"})


def make_prediction(
    logits: torch.Tensor,
    byte_ends: Any = None,
    *,
    ids: Any = None,
    scored: Any = None,
    vocabulary: Vocabulary | None = None,
    elements: int = ELEMENTS_IN_MEMORY,
) -> Prediction:
    """By default a start token and then tokens of two bytes, all of them scored."""
    count, size = logits.shape
    ends = np.arange(count) * 2 if byte_ends is None else np.asarray(byte_ends)
    ends = np.where(np.arange(count) == 0, -1, ends) if byte_ends is None else ends
    marks = ends > 0 if scored is None else np.asarray(scored)
    if count:
        marks = marks & (np.arange(count) > 0)
    return Prediction(
        tokens=Tokens(np.asarray(np.arange(count) % size if ids is None else ids), ends),
        hidden=logits,
        head=Head(nn.Identity(), size),
        vocabulary=vocabulary or plain_vocabulary(size),
        scored=torch.from_numpy(np.array(marks, dtype=bool)),
        elements_in_memory=elements,
    )


@pytest.fixture
def predict() -> Callable[..., Prediction]:
    return make_prediction


@pytest.fixture
def golden() -> Callable[[str], dict[str, Any]]:
    return lambda name: json.loads((GOLDEN / f"{name}.json").read_text())


@pytest.fixture
def noise() -> Callable[..., torch.Tensor]:
    """Normal float64 numbers of a shape, always the same for a seed."""

    def draw(*shape: int, seed: int = 0, scale: float = 2.0) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)

    return draw


@dataclass(frozen=True)
class XToken:
    """P-KL and H-KL of NVIDIA-NeMo/RL in float64, and our methods on the same inputs.

    Whole tables, step by step as the published code. A case's first teacher is read.

    Args:
        data: one golden file of its losses.
    """

    data: dict[str, Any]

    num_teacher = 24
    document = text_document("d", "not read")

    def projection(self, name):
        """The file's W: padding and zeros dropped, the heaviest first."""
        held = self.data["projections"][name]
        rows = []
        for ids, weights in zip(held["indices"], held["likelihoods"], strict=True):
            kept = [e for e in zip(ids, weights, strict=True) if self._is_entry(*e)]
            rows.append(sorted(kept, key=lambda entry: -entry[1]))
        entries = [entry for row in rows for entry in row]
        held_rows = zip(held["indices"], held["likelihoods"], strict=True)
        return Projection(
            offsets=np.cumsum([0, *(len(row) for row in rows)]),
            teacher_ids=np.array([index for index, _ in entries]),
            weights=np.array([weight for _, weight in entries], dtype=np.float32),
            num_teacher=self.num_teacher,
            # the published code wants padding, not a zero, in the second place
            exact=np.array([w[0] == 1 and i[1] == -1 for i, w in held_rows]),
        )

    def _is_entry(self, index, weight):
        return 0 <= index < self.num_teacher and weight > 0

    def inputs(self, case):
        student = torch.tensor(case["student_logits"], dtype=torch.float64, requires_grad=True)
        teacher = torch.tensor(case["teacher_logits"][0], dtype=torch.float64)
        return student, teacher[..., : self.num_teacher]

    def chunks(self, case):
        """(sample, student rows, teacher rows) of every chunk that counts."""
        alignment, config = self.data["alignment"], case["config"]
        student, teacher = (_shifted(alignment[f"{s}_chunk_id"]) for s in ("student", "teacher"))
        valid = np.array(alignment["pair_valid"]) * np.array(case["sample_mask"])[:, None]
        if config["exact_token_match_only"] and not config["gold_loss"]:
            valid = valid * np.array(alignment["pair_is_correct"])
        for sample, chunk in np.argwhere(valid):
            rows = [np.flatnonzero(side[sample] == chunk) for side in (student, teacher)]
            if len(rows[0]) and len(rows[1]):
                yield sample, *rows

    def reference(self, case, student, teacher):
        kind = self._h_kl if case["config"]["gold_loss"] else self._p_kl
        values = list(kind(case, student, teacher))
        total = torch.stack(values).mean() if values else torch.zeros(())
        return case["config"]["temperature"] ** 2 * total

    def _p_kl(self, case, student, teacher):
        config, w = case["config"], self._dense(case["teachers"][0]["projection"])
        temperature = config["temperature"]
        count = min(config["vocab_topk"], self.num_teacher)
        top = teacher.flatten(0, 1).amax(0).topk(count).indices
        probs = (student / temperature).softmax(-1) @ w[:, top]
        logs = (teacher[..., top] / temperature).log_softmax(-1)
        for sample, ours, theirs in self.chunks(case):
            mass = probs[sample, ours].mean(0)
            projected = (mass / (mass.sum() + 1e-10) + 1e-10).log()
            yield _published_kl(logs[sample, theirs].mean(0), projected, config["reverse_kl"])

    def _h_kl(self, case, student, teacher):
        config, w = case["config"], self.projection(case["teachers"][0]["projection"])
        temperature = config["temperature"]
        kind = "relaxed" if config["xtoken_loss"] else "strict"
        matched = matched_of(w, torch.device("cpu"), kind)
        s, t = matched.students, matched.teachers
        other_s, other_t = _without(w.num_student, s), _without(self.num_teacher, t)
        n = min(len(other_s), len(other_t), config["uncommon_topk"])
        for sample, ours, theirs in self.chunks(case):
            own = (student[sample, ours] / temperature).log_softmax(-1).mean(0)
            q = (teacher[sample, theirs] / temperature).log_softmax(-1).mean(0)
            common = _published_kl(q[t], own[s], config["reverse_kl"])
            sides = [x.exp().sort(descending=True).values[:n] for x in (own[other_s], q[other_t])]
            yield common + (sides[0] - sides[1]).abs().sum()

    def _dense(self, name):
        w = self.projection(name)
        table = torch.zeros(w.num_student, self.num_teacher, dtype=torch.float64)
        cells = torch.from_numpy(w.student_ids), torch.from_numpy(w.teacher_ids)
        return table.index_put_(cells, torch.from_numpy(w.weights).double(), accumulate=True)

    def cross_entropy(self, case, student):
        logs = student.log_softmax(-1)[:, :-1]
        ids = torch.tensor(self.data["student_ids"])[:, 1:, None]
        mask = torch.tensor(self.data["student_mask"])[:, 1:]
        mask = mask * torch.tensor(case["sample_mask"])[:, None]
        nll = -(logs.gather(-1, ids).squeeze(-1) * mask).sum()
        return nll / (case["global_valid_toks"] + 1e-8)

    def side(self, name, logits, sample):
        """One sample's prediction; chunk c ends at byte 100 (c + 1), inner tokens before that."""
        chunk = np.array(self.data["alignment"][f"{name}_chunk_id"][sample])
        count, size = int((chunk >= 0).sum()), logits.shape[-1]
        inner = np.arange(count) + (1 if name == "student" else 11)
        last = np.append(np.diff(chunk[:count]) > 0, True)
        ends = np.where(last, 100 * (chunk[:count] + 1), 100 * chunk[:count] + inner)
        return Prediction(
            tokens=Tokens(np.array(self.data[f"{name}_ids"][sample][:count]), ends),
            hidden=logits[sample, :count],
            head=Head(nn.Identity(), size),
            vocabulary=Vocabulary(tuple(b"%d" % i for i in range(size))),
            scored=torch.arange(count) > 0,
        )

    def method(self, config):
        """Our method with the case's options."""
        options = {"k": 64, "chunk": "mean", "precision": "float32"}
        if config["reverse_kl"]:
            options["divergence"] = "reverse"
        if config["temperature"] != 1:
            options |= {"temperature": config["temperature"], "times_temperature_squared": True}
        if not config["gold_loss"]:
            return method_class("p_kl")(**options)
        common = "relaxed" if config["xtoken_loss"] else "strict"
        return method_class("h_kl")(common=common, uncommon_k=config["uncommon_topk"], **options)

    def shipped(self, case, student, teacher):
        """Our method's mean over the units of all samples."""
        chosen = self.method(case["config"])
        w = self.projection(case["teachers"][0]["projection"])
        total, units = torch.zeros((), dtype=torch.float64), 0
        for sample in np.flatnonzero(case["sample_mask"]):
            own = self.side("student", student, sample)
            other = self.side("teacher", teacher, sample)
            pair = Pair(own.vocabulary, other.vocabulary, projection=w)
            signal = chosen.signal(other, self.document)
            term = chosen.loss(own, signal, pair, nn.ModuleDict())
            assert term.units == chosen.num_units(own.tokens, own.scored.numpy(), signal, pair)
            total, units = total + term.total, units + term.units
        return total / max(1, units)


def _shifted(ids):
    return np.concatenate([np.array(ids)[:, 1:], np.full((len(ids), 1), -1)], axis=1)


def _without(size, ids):
    return torch.tensor(sorted(set(range(size)) - set(ids.tolist())), dtype=torch.long)


def _published_kl(p, q, reverse):
    return (q.exp() * (q - p) if reverse else p.exp() * (p - q)).sum()


@pytest.fixture
def xtoken() -> type[XToken]:
    return XToken
