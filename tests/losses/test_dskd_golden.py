"""DSKD against the published codes: losses, gradients and alignments (tests/golden/README.md)."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from losses import divergence
from losses.alignment.tokens import Tokens
from losses.alignment.vocabulary import Family, Vocabulary, bytes_of_piece
from losses.base import Pair
from losses.document import text_document
from losses.dual_space import attention
from losses.dual_space.attention import CrossAttention, Scales, Seen, Side
from losses.dual_space.rows import paired_rows
from losses.dual_space.shared_logits import weight_of
from losses.dual_space.shared_tokens import shared_tokens
from losses.dual_space.spaces import in_student_space, in_teacher_space
from losses.methods.dskd import Dskd
from losses.prediction import Head, Prediction
from losses.signals import HiddenStates

FOLDER = Path(__file__).parents[1] / "golden"
V1, V2, ETA, FLATTENED, KDFLOW, DIVERGENCES, TOKENKIT = (
    json.loads((FOLDER / "dskd" / f"{name}.json").read_text())
    for name in (
        "dskd_v1",
        "dskdv2_eta_loss",
        "eta_alignment",
        "eta_flattened_batch",
        "kdflow_algorithms",
        "kdflow_divergences",
        "tokenkit_loss",
    )
)
ALM = json.loads((FOLDER / "alm_loss.json").read_text())["shared_inputs"]
RELATIVE = 2e-5
SIDES = ("student", "teacher")
DOCUMENT = text_document("d", "not read")


def double(values, *, grad=False):
    return torch.tensor(values, dtype=torch.float64, requires_grad=grad)


def close(found, expected, scale=1.0):
    expected = double(expected) * scale
    bound = RELATIVE * max(1.0, expected.abs().max().item())
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=bound)


def linear(weight):
    layer = nn.Linear(len(weight[0]), len(weight), bias=False, dtype=torch.float64)
    layer.weight = nn.Parameter(double(weight))
    return Head(layer, len(weight))


def vocabulary(pieces):
    texts = [piece.replace("Ġ", " ").replace("▁", " ").encode() for piece in pieces[1:]]
    return Vocabulary((None, *texts), {0: "end"})


def side(case, name, row, head, hidden, labels=None):
    """One document: its tokens are the inputs and the last label; an end is one byte wide."""
    words = vocabulary(case[f"{name}_pieces"])
    count = sum(label != -100 for label in (labels or case[f"{name}_labels"])[row])
    last = (labels or case[f"{name}_labels"])[row][count - 1]
    ids = np.array([*case[f"{name}_input_ids"][row][:count], last])
    ends = np.cumsum([len(words.token_bytes[index] or b"-") for index in ids])
    return Prediction(
        tokens=Tokens(ids, ends),
        hidden=hidden[row][: count + 1],
        head=head,
        vocabulary=words,
        scored=torch.arange(count + 1) > 0,
    )


def embedded(prediction, weight):
    prediction.embed = nn.Embedding.from_pretrained(double(weight))
    return prediction


def batch_scales(case):
    """What the peer divides by: deviations over the whole batch, its padding read as token 0."""
    embed, labels = double(case["teacher_embed"]), torch.tensor(case["teacher_labels"])
    inputs = torch.where(labels >= 0, torch.tensor(case["teacher_input_ids"]), 0)
    targets = embed[labels.clamp(min=0)]
    index = torch.cat([embed[inputs], targets], -1)
    return Scales(index.std(), targets.std(), double(case["teacher_hidden"]).std())


def load(module, case):
    """The golden projectors into the modules of the same names."""
    for name, values in case["projectors"].items():
        if hasattr(module, name):
            for kind, value in values.items():
                getattr(getattr(module, name), kind).data.copy_(double(value))
    return module


def three(method, case, sides, pair, modules):
    """The parts of all documents, each joined."""
    rows = []
    for teacher, student in sides:
        signal = method.signal(teacher, DOCUMENT)
        found = method.parts(student, signal, pair, modules)
        scored = student.scored.numpy()
        assert method.num_units(student.tokens, scored, signal, pair) == len(found.answers)
        rows.append(found)
    return [torch.cat(part) for part in zip(*rows, strict=True)]


class TestVersion1:
    def test_attention(self, monkeypatch):
        expected = V1["results"]["cma"]
        heads = linear(V1["student_head"]), linear(V1["teacher_head"])
        hidden = double(V1["student_hidden"], grad=True)
        teacher_hidden = double(V1["teacher_hidden"])
        words = [vocabulary(V1[f"{name}_pieces"]) for name in ("student", "teacher")]
        pair = Pair(*words, heads[1], student_width=4, teacher_width=6)
        method = Dskd(version=1, published=True)
        modules = method.modules(pair).double()
        spaces = load(modules["spaces"], V1)
        monkeypatch.setattr(attention, "scales_of", lambda _: batch_scales(V1))
        sides = [
            (
                embedded(side(V1, "teacher", r, heads[1], teacher_hidden), V1["teacher_embed"]),
                embedded(side(V1, "student", r, heads[0], hidden), V1["student_embed"]),
            )
            for r in (0, 1)
        ]
        parts = three(method, V1, sides, pair, modules)
        names = ("t2s_ce_loss", "t2s_kd_loss", "s2t_kd_loss")
        for part, name in zip(parts, names, strict=True):
            assert part.sum().item() == pytest.approx(expected["values"][name], rel=RELATIVE)
        sum(part.sum() for part in parts).backward()
        close(hidden.grad, expected["grad_student_hidden"])
        for name, gradients in expected["grad_projectors"].items():
            for kind, gradient in gradients.items():
                close(getattr(getattr(spaces, name), kind).grad, gradient)

    def test_one_vocabulary(self):
        expected = V1["results"]["same_vocab"]
        heads = linear(V1["student_head"]), linear(expected["teacher_head"])
        hidden = double(V1["student_hidden"], grad=True)
        words = vocabulary(V1["student_pieces"])
        pair = Pair(words, words, heads[1], student_width=4, teacher_width=6)
        method = Dskd(version=1, restrict=False)
        modules = method.modules(pair).double()
        load(modules["spaces"], V1)
        teacher_hidden = double(V1["teacher_hidden"])
        sides = []
        for row in (0, 1):
            student = side(V1, "student", row, heads[0], hidden)
            teacher = side(V1, "student", row, heads[1], teacher_hidden)
            sides.append((embedded(teacher, V1["teacher_embed"]), student))
        parts = three(method, V1, sides, pair, modules)
        names = ("t2s_ce_loss", "t2s_kd_loss", "s2t_kd_loss")
        for part, name in zip(parts, names, strict=True):
            assert part.sum().item() == pytest.approx(expected["values"][name], rel=RELATIVE)
        sum(part.sum() for part in parts).backward()
        close(hidden.grad, expected["grad_student_hidden"])


class Version2:
    """The toy pair of DSKDv2 and KDFlow."""

    def __init__(self, case, labels=None):
        self.heads = linear(case["student_head"]), linear(case["teacher_head"])
        self.hidden = double(case["student_hidden"], grad=True)
        teacher_hidden = double(case["teacher_hidden"])
        words = [vocabulary(case[f"{name}_pieces"]) for name in ("student", "teacher")]
        self.pair = Pair(
            *words, self.heads[1], student_width=4, teacher_width=6, student_head=self.heads[0]
        )
        self.sides = [
            (
                side(case, "teacher", r, self.heads[1], teacher_hidden, labels and labels[1]),
                side(case, "student", r, self.heads[0], self.hidden, labels and labels[0]),
            )
            for r in (0, 1)
        ]

    def mean(self, method, case, modules):
        """The peers' means: over rows with a label, and over those that agree with it."""
        answers, student, teacher = three(method, case, self.sides, self.pair, modules)
        with_label, agreeing = (int((part != 0).sum()) for part in (answers, student))
        assert (len(answers), with_label, len(teacher)) == (5, 2, 2)
        assert agreeing == (1 if method.restrict else 2)
        means = answers.sum() / with_label, student.sum() / agreeing, teacher.mean()
        return dict(zip(("t2s_ce_loss", "t2s_kd_loss", "s2t_kd_loss"), means, strict=True))


@pytest.mark.parametrize("name", V2["results"])
def test_version_2(name):
    expected, toy = V2["results"][name], Version2(V2)
    agreement, temperature = (part.partition("=")[2] for part in name.split(","))
    method = Dskd(published=True, restrict=agreement == "1", temperature=float(temperature))
    modules = method.modules(toy.pair).double()
    means = toy.mean(method, V2, modules)
    for key, value in means.items():
        assert value.item() == pytest.approx(expected["values"][key], rel=RELATIVE)
    sum(means.values()).backward()
    close(toy.hidden.grad, expected["grad_student_hidden"])
    close(modules["spaces"].t2s.weight.grad, expected["grad_t2s_projector"])
    close(toy.heads[0].linear.weight.grad, expected["grad_student_head"])


def test_projector_starts_at_the_pseudo_inverse():
    toy = Version2(V2)
    spaces = Dskd().modules(toy.pair)["spaces"]
    assert spaces.students.tolist() == V2["student_overlap_ids"]
    assert spaces.teachers.tolist() == V2["teacher_overlap_ids"]
    maps = spaces._maps(toy.heads[1])
    close(maps.start.T, V2["t2s_projector_init"])
    inverse = weight_of(toy.heads[1])[spaces.teachers] @ maps.inverse
    close(inverse, V2["teacher_overlap_head_pinv"])


def test_kdflow():
    """Half of it is cross-entropy; its projector's gradient is clamped at 1."""
    expected = KDFLOW["results"]["dskd_eta"]
    labels = [shifted(KDFLOW, name) for name in ("student", "teacher")]
    toy, method = Version2(KDFLOW, labels), Dskd(published=True, temperature=1.0)
    modules = method.modules(toy.pair).double()
    means = toy.mean(method, KDFLOW, modules)
    for key, value in means.items():
        assert value.item() == pytest.approx(expected[key], rel=RELATIVE)
    mapping = shared_tokens(toy.pair.student, toy.pair.teacher).student_of
    assert mapping.tolist() == expected["t2s_id_mapping"]
    own = sum(student.logprob_of_scored().sum() for _, student in toy.sides)
    loss = (sum(means.values()) - own / KDFLOW["avg_token_num"]) / 2
    assert loss.item() == pytest.approx(expected["loss"], rel=RELATIVE)
    loss.backward()
    close(toy.hidden.grad, expected["grad_student_hidden"])
    gradient = modules["spaces"].t2s.weight.grad
    close(gradient.clamp(-1, 1), expected["grad_t2s_projector_after_clamp"])


def shifted(case, name):
    """Labels of the rows that the mask keeps: the inputs, one to the left, and the end."""
    rows = zip(case[f"{name}_input_ids"], case[f"{name}_loss_mask"], strict=True)
    return [
        [index if kept else -100 for index, kept in zip([*ids[1:], 0], mask, strict=True)]
        for ids, mask in rows
    ]


NAMES = {
    "kl": divergence.forward,
    "rkl": divergence.reverse,
    "jsd|jsd_beta=0.5": lambda p, q: divergence.js(p, q, 0.5),
    "skl|skew_lambda=0.1": lambda p, q: divergence.skewed_forward(p, q, 0.1),
    "srkl|skew_lambda=0.1": lambda p, q: divergence.skewed_reverse(p, q, 0.1),
    "akl|adaptive_kl_alpha=0.5": lambda p, q: divergence.adaptive(p, q, 0.5),
    "tvd": divergence.total_variation,
}


@pytest.mark.parametrize("temperature", [1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_divergences(name, temperature):
    sides = (double(DIVERGENCES[f"{side}_logits"]) for side in ("teacher", "student"))
    p, q = ((logits / temperature).log_softmax(-1) for logits in sides)
    separator = "|" if "|" in name else "||"
    expected = DIVERGENCES["values"][f"{name}{separator}T={temperature}"]
    close(NAMES[name](p, q), expected)


FAMILIES = {
    "gpt2": Family.BYTE_LEVEL,
    "qwen1.5": Family.BYTE_LEVEL,
    "llama2": Family.SENTENCEPIECE,
    "mistral": Family.SENTENCEPIECE,
}


def pairs_of(text, student, teacher):
    """Our pairs [teacher, student] of a text, by the bytes of both sides' pieces."""
    ends = []
    for name, pieces in (student, teacher):
        content = [bytes_of_piece(piece, FAMILIES[name]) for piece in pieces]
        if FAMILIES[name] is Family.SENTENCEPIECE and content:
            content[0] = content[0].removeprefix(b" ")  # the dummy prefix is no text
        if b"".join(content) != text.encode():
            pytest.skip(f"{name} normalises this text")
        widths = [0, *map(len, content)]
        ends.append(np.where(np.array(widths) > 0, np.cumsum(widths), -1))
    student, teacher = ends
    positions = np.flatnonzero(teacher > 0) - 1
    states = HiddenStates(
        teacher.astype(np.int32), positions.astype(np.int32), np.zeros((len(positions), 1))
    )
    found = paired_rows(Tokens(student, student), student > 0, states)
    return [[int(positions[t]), int(s)] for s, t in zip(*found, strict=True)]


@pytest.mark.parametrize("case", ETA["cases"], ids=lambda case: case["name"])
def test_alignment_by_bytes(case):
    """What the peers pair is paired, and what they lose behind a foreign character.

    A dummy prefix alone is no token of the text, and a space is not as good as three.
    """
    sides = [(case[side], case[f"{side}_pieces"]) for side in SIDES]
    found = pairs_of(case["text"], *sides)
    assert [pair for pair in case["char_span_one_to_one"] if pair not in found] == []
    dummies = [[0, 0]] if ["▁"] in [pieces[:1] for _, pieces in sides] else []
    peers = [pair for pair in case["eta"]["dskdv2"] if pair not in found + dummies]
    for t, s in peers:
        pieces = [sides[0][1][s], sides[1][1][t]]
        assert {piece.strip("Ġ▁") for piece in pieces} == {""}
        assert len(set(map(len, pieces))) == 2


@pytest.mark.parametrize("case", FLATTENED["cases"], ids=range(len(FLATTENED["cases"])))
def test_documents_are_aligned_alone(case):
    """KDFlow joins a batch's texts first; one foreign word then costs all later texts."""
    offsets, expected, joined = [0, 0], {tuple(pair) for pair in case["per_sample"]}, set()
    rows = [parted(case[f"{side}_pieces"]) for side in SIDES]
    for text, *pieces in zip(case["texts"], *rows, strict=True):
        sides = [(case[side], own) for side, own in zip(SIDES, pieces, strict=True)]
        found = pairs_of(text, *sides)
        ends = (offsets[1] + len(pieces[1]), offsets[0] + len(pieces[0]))
        joined |= {(t + offsets[1], s + offsets[0]) for t, s in found} | {ends}
        offsets = [n + len(own) + 1 for n, own in zip(offsets, pieces, strict=True)]
    assert expected <= joined
    for pairs in case["flattened"].values():
        assert {tuple(pair) for pair in pairs} <= joined


def parted(pieces):
    """The pieces of each text of a batch, parted at their ends."""
    texts = [[]]
    for piece in pieces:
        if piece in ("<|endoftext|>", "</s>"):
            texts.append([])
        else:
            texts[-1].append(piece)
    return texts[:-1]


TOKENKIT_NAMES = {
    "kl": divergence.forward,
    "rkl": divergence.reverse,
    "srkl": lambda p, q: divergence.skewed_reverse(p, q, 0.1),
    "akl": lambda p, q: divergence.adaptive(p, q, 0.5),
}
VALUED = [case for case in TOKENKIT["cases"] if "loss" in case]


@pytest.mark.parametrize("case", VALUED, ids=lambda case: case["divergence"])
def test_tokenkit(monkeypatch, case):
    """Its logits do not come from its hidden states, so both heads read [states, logits]."""
    inputs, logits = TOKENKIT["inputs"], ALM["logits"]["normal"]
    embedded, last = double(inputs["student_hidden"])
    teacher_embedded, teacher_last = double(inputs["teacher_hidden"])
    spaces = CrossAttention(4, 5, knows_answer=True).double()
    for name in ("query", "t2s", "s2t"):
        values = inputs["projectors"][f"projector_{name}"]
        getattr(spaces, name).weight.data = double(values["kernel"]).T.contiguous()
        getattr(spaces, name).bias.data = double(values["bias"])
    read, target = teacher_embedded[:, :-1], teacher_embedded[:, 1:]
    index = torch.cat([read, target], -1)
    scales = Scales(*(x.std(correction=0) for x in (index, target, teacher_last[:, :-1])))
    monkeypatch.setattr(attention, "scales_of", lambda _: scales)
    compare = tempered_by(2.0, TOKENKIT_NAMES[case["divergence"]])
    forward = tempered_by(2.0, divergence.forward)
    first, second = [], []
    for row in (0, 1):
        counts = [sum(ALM["loss_masks"]["attention"][side][row]) - 1 for side in SIDES]
        ours = Side(*(x[row, s] for x, s in sides_of(last, embedded, counts[0])))
        theirs = Side(*(x[row, s] for x, s in sides_of(teacher_last, teacher_embedded, counts[1])))
        seen = torch.ones(counts[0], counts[1], dtype=torch.bool)
        mixed = spaces(ours, theirs, Seen(seen, seen.T))
        student = with_logits(inputs["student_output_embeddings"], logits["student"][row])
        ids = torch.tensor(ALM["input_ids_student"][row])[1 : counts[0] + 1]
        projected = torch.nn.functional.pad(mixed[0], (0, student.head.num_valid))
        rows = torch.arange(counts[0])
        first.append(in_student_space(student, rows, projected, ids, compare, restrict=True))
        teacher = with_logits(inputs["teacher_embeddings"], logits["teacher"][row])
        hidden = teacher.hidden[: counts[1]]
        back = torch.nn.functional.pad(mixed[1], (0, teacher.head.num_valid))
        second.append(in_teacher_space(teacher.head, hidden, back, forward, 99))
    answers, values = torch.cat(first).unbind(-1)
    parts = {"t2s_ce_loss": answers.mean(), "s2t_kd_loss": torch.cat(second).mean()}
    parts["t2s_kd_loss"] = values.sum() / (values != 0).sum()
    for name, value in parts.items():
        assert value.item() == pytest.approx(case[name], rel=RELATIVE)


def sides_of(last, embedded, count):
    """Hidden states, and embeddings of what the rows read and predict."""
    return (last, slice(count)), (embedded, slice(count)), (embedded, slice(1, count + 1))


def tempered_by(temperature, compare):
    return lambda p, q: compare(
        (p / temperature).log_softmax(-1), (q / temperature).log_softmax(-1)
    )


def with_logits(weight, logits):
    """A prediction of these logits whose head reads states of the given weight as well."""
    weight, logits = double(weight), double(logits)
    layer = nn.Linear(sum(weight.shape), len(weight), bias=False, dtype=torch.float64)
    layer.weight = nn.Parameter(torch.cat([weight, torch.eye(len(weight)).double()], -1))
    count = len(logits)
    return Prediction(
        tokens=Tokens(np.zeros(count, dtype=np.int64), np.arange(count)),
        hidden=torch.nn.functional.pad(logits, (weight.shape[1], 0)),
        head=Head(layer, len(weight)),
        vocabulary=Vocabulary((None,) * len(weight)),
        scored=torch.arange(count) > 0,
    )
