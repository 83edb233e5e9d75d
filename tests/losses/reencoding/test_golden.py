"""The toy objective and the re-encodings that were worked out from the paper's text."""

import numpy as np
import pytest
import torch
from torch import nn

from losses.alignment.tokens import Tokens
from losses.alignment.vocabulary import Family, Vocabulary, bytes_of_piece
from losses.base import Pair
from losses.document import text_document
from losses.methods.sedi import Sedi
from losses.prediction import Head, Prediction
from losses.reencoding.objective import pseudo_label_sums
from losses.reencoding.pseudo_labels import PseudoLabels
from losses.reencoding.published import pseudo_label_losses
from losses.reencoding.teacher_rows import TopTokensWithEntropy

DOCUMENT = text_document("d", "not read")
COLLISIONS = ["last", "max", "logsumexp"]
CASES = [f"{collision}/{scale}" for collision in COLLISIONS for scale in ("ones", "w2")]


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def side(logits, ids, ends, vocabulary):
    return Prediction(
        tokens=Tokens(np.array(ids), np.array(ends)),
        hidden=logits,
        head=Head(nn.Identity(), logits.shape[1]),
        vocabulary=vocabulary,
        scored=torch.arange(len(ids)) > 0,
    )


def letters(size, first):
    return Vocabulary(tuple(bytes([ord(first) + index]) for index in range(size)))


class Toy:
    """The golden's toy pair; "a" and "b" are the prefixes of its first and last window."""

    student_vocabulary, teacher_vocabulary = letters(8, "A"), letters(10, "a")

    def __init__(self, golden):
        self.golden = golden
        self.logits = tensor(golden["student_logits"]).requires_grad_()
        self.labels = [label for label in golden["labels_next_token"] if label is not None]
        self.student = side(
            self.logits, [0, *self.labels], [1, 3, 4, 5, 7], self.student_vocabulary
        )
        ids, ends = [9, 0, 5, 6, 1, 8], [1, 2, 3, 5, 6, 7]
        self.teacher = side(tensor(golden["teacher_logits"]), ids, ends, self.teacher_vocabulary)
        windows = {"a": "0", "": "1", "b": "2"}
        mapping = {
            prefix + chr(ord("a") + int(token)): ids
            for prefix, window in windows.items()
            for token, ids in golden["reencode"][window].items()
        }
        self.pair = Pair(
            self.student_vocabulary,
            self.teacher_vocabulary,
            encode_student=lambda texts: [mapping[text] for text in texts],
        )

    def halves(self):
        """Half the cross-entropy, of which the golden's total has a mean."""
        ce = nn.functional.cross_entropy(self.logits[:4], torch.tensor(self.labels))
        return self.golden["lambda_ce"] * ce


@pytest.fixture
def toy(golden):
    return Toy(golden("sedi/pseudo_loss"))


@pytest.mark.parametrize("scale", ["ones", "w2"])
def test_the_published_form_from_logits_to_gradients(toy, scale):
    expected = toy.golden["results"][f"last/{scale}"]
    method = Sedi(k=4, published=True, precision="float32")
    signal = method.signal(toy.teacher, DOCUMENT)
    labels = method.ahead(toy.student.tokens, toy.student.scored.numpy(), signal, toy.pair)
    dense = np.zeros((4, 8))
    np.add.at(dense, (np.arange(4)[:, None], labels.ids), labels.scores)
    np.testing.assert_allclose(dense, expected["z_topk"][:4], atol=1e-5)
    modules = method.modules(toy.pair).double()
    factors = modules["adapter"].scale
    factors.data.copy_(tensor(toy.golden["adapter"][scale]))
    term = method.loss(toy.student, labels, toy.pair, modules)
    assert term.units == 4
    assert method.num_units(toy.student.tokens, toy.student.scored.numpy(), labels, toy.pair) == 4
    assert (term.metrics["kl"] / 4).item() == pytest.approx(expected["L_kl"], rel=1e-6)
    assert (term.metrics["entropy"] / 4).item() == pytest.approx(expected["L_entropy"], rel=1e-5)
    total = toy.halves() + (1 - toy.golden["lambda_ce"]) * term.total / 4
    assert total.item() == pytest.approx(expected["L_total"], rel=1e-6)
    total.backward()
    joint = expected["grad_joint"]
    torch.testing.assert_close(toy.logits.grad, tensor(joint["student_logits"]), atol=1e-6, rtol=0)
    torch.testing.assert_close(factors.grad, tensor(joint["adapter"]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("case", CASES)
def test_the_objective_alone(toy, case):
    """In float64, with the golden's own scores."""
    expected = toy.golden["results"][case]
    scale = tensor(toy.golden["adapter"][case.split("/")[1]]).requires_grad_()
    scores, ids = tensor(expected["z_topk"][:4]), torch.arange(8).expand(4, 8)
    entropy = tensor(expected["entropy_teacher"])
    rows = pseudo_label_losses(toy.logits[:4], scale, ids, scores, entropy)
    torch.testing.assert_close(rows[:, 0], tensor(expected["kl_per_position"]), atol=1e-10, rtol=0)
    means = rows.mean(0)
    assert means[1].item() == pytest.approx(expected["L_entropy"], abs=1e-10)
    total = toy.halves() + 0.5 * means.sum()
    assert total.item() == pytest.approx(expected["L_total"], abs=1e-10)
    total.backward()
    joint = expected["grad_joint"]
    torch.testing.assert_close(toy.logits.grad, tensor(joint["student_logits"]), atol=1e-10, rtol=0)
    torch.testing.assert_close(scale.grad, tensor(joint["adapter"]), atol=1e-10, rtol=0)


@pytest.mark.parametrize("collision", COLLISIONS)
def test_stopped_gradients(toy, collision):
    """With factors of one a log-probability is as good as a logit: the targets are the same."""
    expected = toy.golden["results"][f"{collision}/ones"]
    scores = np.array(expected["z_topk"][:4], dtype=np.float32)
    labels = PseudoLabels(
        byte_ends=np.zeros(0, dtype=np.int32),
        logprob=np.zeros(0, dtype=np.float32),
        positions=np.arange(1, 5),
        groups=np.array([1, 2, 2, 3]),
        entropy=np.array(expected["entropy_teacher"], dtype=np.float32),
        ids=np.tile(np.arange(8, dtype=np.int32), (4, 1)),
        scores=scores,
        rest=np.zeros(4, dtype=np.float32),
        own="added",
        num_left_out=0,
    )
    kl, entropy = pseudo_label_sums(toy.student, labels, torch.ones(8).double()) / 4
    assert kl.item() == pytest.approx(expected["L_kl"], rel=1e-6)
    assert entropy.item() == pytest.approx(expected["L_entropy"], rel=1e-6)
    (toy.halves() + 0.5 * (kl + entropy)).backward()
    wanted = tensor(expected["grad_stopgrad"]["student_logits"])
    torch.testing.assert_close(toy.logits.grad, wanted, atol=1e-6, rtol=0)


def family_of(name):
    return Family.SENTENCEPIECE if name.startswith("llama") else Family.BYTE_LEVEL


def vocabulary_of(ids, contents):
    table: list[bytes | None] = [None] * (max(ids) + 1)
    for index, content in zip(ids, contents, strict=True):
        table[index] = content
    return Vocabulary(tuple(table))


def ends_of(contents, text):
    """Byte ends in the text; a space that the tokenizer put before it is not counted."""
    joined = b"".join(contents)
    extra = len(joined) - len(text.encode())
    return np.maximum(np.cumsum([len(content) for content in contents]) - extra, 0)


def pieces_of(case, side):
    family = family_of(case[side])
    return [bytes_of_piece(piece, family) for piece in case[f"{side}_pieces"]]


def test_reencodings_of_real_tokenizers(golden):
    for case in golden("sedi/reencode")["cases"]:
        for published in (True, False):
            check_case(renumbered(case), published=published)


def renumbered(case):
    """The same case with small ids, so that no table has thousands of unused ones."""
    own = [i for one in case["candidates"] for i in one["student_ids"]] + case["student_ids"]
    other = [one["teacher_id"] for one in case["candidates"]] + case["teacher_ids"]
    ours, theirs = (
        {index: place for place, index in enumerate(sorted(set(ids)), start=1)}
        for ids in (own, other)
    )
    found = [
        one
        | {
            "teacher_id": theirs[one["teacher_id"]],
            "student_ids": [ours[index] for index in one["student_ids"]],
        }
        for one in case["candidates"]
    ]
    changed = {
        "candidates": found,
        "student_ids": [ours[index] for index in case["student_ids"]],
        "teacher_ids": [theirs[index] for index in case["teacher_ids"]],
    }
    for name in ("pseudo_literal_last", "pseudo_max_prefix_checked"):
        rows = case[name].items()
        changed[name] = {r: {ours[int(i)]: s for i, s in e.items()} for r, e in rows}
    return case | changed


def check_case(case, *, published):
    theirs, ours = pieces_of(case, "teacher"), pieces_of(case, "student")
    found = case["candidates"]
    family, own = family_of(case["teacher"]), family_of(case["student"])
    listed = [bytes_of_piece(one["teacher_piece"], family) for one in found]
    written = [
        (index, bytes_of_piece(piece, own))
        for one in found
        for index, piece in zip(one["student_ids"], one["student_pieces"], strict=True)
    ]
    student_ids = [*case["student_ids"], *(index for index, _ in written)]
    student = vocabulary_of(student_ids, [*ours, *(content for _, content in written)])
    teacher_ids = [*case["teacher_ids"], *(one["teacher_id"] for one in found)]
    teacher = vocabulary_of(teacher_ids, [*theirs, *listed])
    texts = {one["text"]: one["student_ids"] for one in found if one["text"] is not None}
    pair = Pair(student, teacher, encode_student=lambda asked: [texts.get(t, []) for t in asked])
    scored = np.isin(np.arange(len(ours)), case["S_next"])
    tokens = Tokens(np.array(case["student_ids"]), ends_of(ours, case["text"]))
    count, k = len(case["T_next"]), len(found)
    logprob = np.full(len(theirs), np.nan, dtype=np.float32)
    logprob[case["T_next"]] = -30
    ids = np.zeros((count, k), dtype=np.int32)
    ids[-1] = [one["teacher_id"] for one in found]
    scores = np.tile(np.array([one["score"] for one in found], dtype=np.float32), (count, 1))
    top = TopTokensWithEntropy(
        byte_ends=ends_of(theirs, case["text"]).astype(np.int32),
        logprob=logprob,
        others=scores,
        tail=np.zeros(count, dtype=np.float32),
        realised=np.array(case["teacher_ids"], dtype=np.int32)[case["T_next"]],
        ids=ids,
        entropy=np.zeros(count, dtype=np.float32),
        level=np.zeros(count, dtype=np.float32),
    )
    method = Sedi(k=k, published=True) if published else Sedi(k=k, window="last", own="added")
    labels = method.ahead(tokens, scored, top, pair)
    name = "pseudo_literal_last" if published else "pseudo_max_prefix_checked"
    wanted = {
        (int(row) + 1, int(index)): score
        for row, entries in case[name].items()
        for index, score in entries.items()
    }
    got = dense_entries(labels)
    assert got.keys() == wanted.keys(), case["name"]
    if published:
        assert got == pytest.approx(wanted), case["name"]
    else:
        least = min(one["score"] for one in found)
        assert all(got[key] >= wanted[key] - least - 1e-5 for key in wanted), case["name"]


def dense_entries(labels):
    """Padding repeats id 0 with a zero score, which no case uses."""
    rows = zip(labels.positions.tolist(), labels.ids.tolist(), labels.scores.tolist(), strict=True)
    return {
        (position, index): score
        for position, ids, scores in rows
        for index, score in zip(ids, scores, strict=True)
        if index
    }
