"""Several teachers against NVIDIA-NeMo/RL: a reference meets its numbers, ours where we agree.

Every case is in one of the groups below: met by our losses and our weights, by our losses with its
weights, by an ensemble, or by the reference alone.
"""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from losses.base import Pair
from losses.ensembles import EnsemblePair, Said
from losses.ensembles.student_vocabulary import VocabularyEnsemble
from losses.methods.kl import Kl
from losses.mixture import SCHEMES, Select, TeacherCe, TeacherEntropy, TeacherScore
from losses.prediction import Head

FOLDER = Path(__file__).parents[1] / "golden" / "xtoken"
DATA = json.loads((FOLDER / "loss_multi_teacher.json").read_text())
CASES = DATA["cases"]
RELATIVE = 2e-5

CONSTANT = ("sum_cross_same",)
SCHEME = {"dyn_ce": TeacherCe, "dyn_entropy": TeacherEntropy, "select_teacher": Select}
"""Our rule with the micro-batch's scores as those of one document. A run scores each document by
itself, without the head's padding (``dyn_ce`` has two such columns) and without the row after the
last token (``dyn_entropy``)."""
ENSEMBLE = "averaged_logits"
OTHER_WEIGHTS = {
    "sum_norm_vocab": "ln V_i / ln min V is a factor that a user may write; no scheme of ours",
    "dyn_max_prob": "no scheme of ours: the best token's probability says what entropy says",
    "dyn_ce_norm": "temper the scores by the sizes of the vocabularies: nats per byte need no such",
    "averaged_fallback": "the plain sum without a word; our targets meet through W⁻ or are refused",
}
REFERENCE_ALONE = {"same_vocab": "twelve columns for the whole batch; kl is over the vocabulary"}


@pytest.fixture
def published(xtoken):
    return xtoken(DATA)


def test_every_case_is_in_one_group():
    groups = [*CONSTANT, *SCHEME, ENSEMBLE, *OTHER_WEIGHTS, *REFERENCE_ALONE]
    assert sorted(groups) == sorted(CASES)


def reads_as_student(case, place):
    return case["teachers"][place]["projection"] is None


def logits(case, place):
    return torch.tensor(case["teacher_logits"][place], dtype=torch.float64)


def one_teacher(case, place):
    """The case with one teacher's own flags, as the reference of a single teacher reads it."""
    config = dict(case["config"])
    for flag in ("gold_loss", "xtoken_loss"):
        if (own := config[f"teacher_{flag}"][place]) is not None:
            config[flag] = own
    one = {"teachers": [case["teachers"][place]], "teacher_logits": [case["teacher_logits"][place]]}
    return case | one | {"config": config}


def mean_kl(case, target, student):
    """Of log-probabilities, over the rows that predict a token."""
    rows = (target.exp() * (target - student)).sum(-1)[:, :-1]
    return (rows * torch.tensor(DATA["student_mask"])[:, 1:]).sum() / case["global_valid_toks"]


def kd_of(published, case, place, student):
    one = one_teacher(case, place)
    if not reads_as_student(case, place):
        return published.reference(one, student, published.inputs(one)[1])
    table = logits(case, place)
    count = min(case["config"]["vocab_topk"], table.shape[-1])
    top = table.flatten(0, 1).amax(0).topk(count).indices
    return mean_kl(case, table[..., top].log_softmax(-1), student[..., top].log_softmax(-1))


def score_of(case, place):
    """(sum, count) of what the teacher is judged by, in nats or probability: lower is better."""
    table, own = logits(case, place), "student" if reads_as_student(case, place) else "teacher"
    ids, mask = (torch.tensor(DATA[f"{own}_{name}"]) for name in ("ids", "mask"))
    logs = table.log_softmax(-1)  # the head's padding counts
    metric = case["config"].get("sum_weights_metric", "ce")
    if metric == "ce":
        rows = -logs[:, :-1].gather(-1, ids[:, 1:, None]).squeeze(-1)
        mask = mask[:, 1:]
    else:  # the row after the last token counts
        rows = {"entropy": -(logs.exp() * logs).sum(-1), "max_prob": -logs.exp().amax(-1)}[metric]
    return (rows * mask).sum().item(), int(mask.sum())


def factors(case):
    """``normalize_teacher_by_vocab``."""
    config = case["config"]
    sizes = config["teacher_vocab_sizes"]
    if not config["normalize_teacher_by_vocab"]:
        return [1.0] * len(sizes)
    return [math.log(size) / math.log(min(sizes)) for size in sizes]


def published_weights(case):
    config = case["config"]
    scores = [score_of(case, place) for place in range(len(case["teachers"]))]
    means = [f * total / count for f, (total, count) in zip(factors(case), scores, strict=True)]
    if config["kd_loss_mode"] == "select_teacher":
        return [float(mean == min(means)) for mean in means]
    if "sum_weights_metric" not in config:
        return config["teacher_weights"]
    return torch.tensor([-config["alpha"] * mean for mean in means]).softmax(-1).tolist()


def kd_reference(published, name, student):
    case = CASES[name]
    if name == ENSEMBLE:
        weights = torch.tensor(case["config"]["teacher_weights"], dtype=torch.float64)
        mean = sum(w * logits(case, i) for i, w in enumerate(weights / weights.sum()))
        return mean_kl(case, mean.log_softmax(-1), student.log_softmax(-1))
    rows = zip(published_weights(case), factors(case), strict=True)
    return sum(w * f * kd_of(published, case, i, student) for i, (w, f) in enumerate(rows))


@pytest.mark.parametrize("name", CASES)
def test_reference_meets_the_published_numbers(name, published):
    case = CASES[name]
    config, metrics = case["config"], case["metrics"]
    student = published.inputs(case)[0]
    kd, ce = kd_reference(published, name, student), published.cross_entropy(case, student)
    assert kd.item() == pytest.approx(metrics["kl_loss"], rel=RELATIVE)
    for place in range(len(case["teachers"])):
        if f"weight_t{place}" in metrics:
            weight = published_weights(case)[place]
            assert weight == pytest.approx(metrics[f"weight_t{place}"], rel=RELATIVE)
        if f"kl_loss_t{place}" in metrics:
            own = kd_of(published, case, place, student).item()
            assert own == pytest.approx(metrics[f"kl_loss_t{place}"], rel=RELATIVE)
    total = config["kl_loss_weight"] * kd + config["ce_loss_scale"] * ce
    assert total.item() == pytest.approx(case["loss"], rel=RELATIVE)
    total.backward()
    expected = torch.tensor(case["grad_student_logits"], dtype=torch.float64)
    torch.testing.assert_close(student.grad, expected, rtol=2e-4, atol=1e-7)


def sides_as_student(published, case, place, student):
    """Each sample's prediction of the student and of a teacher with its tokens."""
    for sample in np.flatnonzero(case["sample_mask"]):
        yield [published.side("student", own, sample) for own in (student, logits(case, place))]


def shipped(published, case, place, student):
    if not reads_as_student(case, place):
        one = one_teacher(case, place)
        return published.shipped(one, student, published.inputs(one)[1])
    total, units = torch.zeros((), dtype=torch.float64), 0
    for own, other in sides_as_student(published, case, place, student):
        pair = Pair(own.vocabulary, other.vocabulary, other.head)
        signal = Kl().signal(other, published.document)
        term = Kl().loss(own, signal, pair, nn.ModuleDict())
        total, units = total + term.total, units + term.units
    return total / units


def met(ours, published, name, student):
    expected = kd_reference(published, name, student)
    assert ours.item() == pytest.approx(expected.item(), rel=1e-5)
    gradients = [torch.autograd.grad(x, student)[0] for x in (ours, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-7)


def our_factors(case, scheme):
    """What our scheme makes of the micro-batch as if it were one document."""
    rows = [score_of(case, place) for place in range(2)]
    scores = [TeacherScore(nats, 1, count) for nats, count in rows]
    return scheme.shares([0.5, 0.5], scores)


@pytest.mark.parametrize("name", SCHEME)
def test_our_schemes_give_the_published_weights(name):
    case = CASES[name]
    options = {} if name == "select_teacher" else {"temperature": 1 / case["config"]["alpha"]}
    shares = our_factors(case, SCHEME[name](per="token", **options))
    assert [0.5 * s for s in shares] == pytest.approx(published_weights(case), rel=1e-6)


@pytest.mark.parametrize("name", [*CONSTANT, *SCHEME, *OTHER_WEIGHTS])
def test_our_losses_by_these_weights_meet_the_reference(name, published):
    case = CASES[name]
    student = published.inputs(case)[0]
    rows = zip(published_weights(case), factors(case), strict=True)
    ours = [w * f * shipped(published, case, i, student) for i, (w, f) in enumerate(rows) if w]
    met(sum(ours), published, name, student)


def test_averaged_logits_are_the_geometric_mean_of_targets(published):
    case = CASES[ENSEMBLE]
    student = published.inputs(case)[0]
    ensemble, weights = VocabularyEnsemble(Kl(), "geometric"), case["config"]["teacher_weights"]
    sides = [[*sides_as_student(published, case, place, student)] for place in range(2)]
    total, units = torch.zeros((), dtype=torch.float64), 0
    for members in zip(*sides, strict=True):
        own, vocabulary = members[0][0], members[0][0].vocabulary
        said = [
            Said(place, weights[place], ensemble.method.signal(other, published.document))
            for place, (_, other) in enumerate(members)
        ]
        head = Head(nn.Identity(), len(vocabulary))
        pairs = tuple(Pair(vocabulary, vocabulary, head) for _ in members)
        pair = EnsemblePair(vocabulary, vocabulary, members=pairs)
        signal = ensemble.combined(own.tokens, own.scored.numpy(), said, vocabulary)
        term = ensemble.method.loss(own, signal, pair, nn.ModuleDict())
        total, units = total + term.total, units + term.units
    met(total / units, published, ENSEMBLE, student)


def test_the_best_tokens_probability_is_no_scheme():
    assert not {"max_prob", "teacher_max_prob"} & set(SCHEMES)


@pytest.mark.parametrize("name", ["dyn_ce", "dyn_entropy"])
def test_a_run_scores_each_document_by_itself(name, published):
    """The micro-batch's weights lie between those of its documents, and are those of neither."""
    case, scheme = CASES[name], SCHEME[name]()
    first = []
    for sample in range(2):
        sides = [teacher_side(published, case, place, sample) for place in range(2)]
        scores = [TeacherScore(nats_of(case, side), 1, int(side.scored.sum())) for side in sides]
        shares = scheme.shares([0.5, 0.5], scores)
        assert sum(shares) == pytest.approx(2)
        first.append(shares[0])
    assert min(first) < our_factors(case, scheme)[0] - 0.02 < max(first) - 0.04


def teacher_side(published, case, place, sample):
    """One sample's prediction of a teacher, without the head's padding."""
    if reads_as_student(case, place):
        return published.side("student", logits(case, place), sample)
    return published.side("teacher", logits(case, place)[..., : published.num_teacher], sample)


def nats_of(case, side):
    if case["config"]["sum_weights_metric"] == "entropy":
        return side.entropy(side.scored_positions - 1).sum().item()
    return -side.logprob_of_scored().sum().item()
