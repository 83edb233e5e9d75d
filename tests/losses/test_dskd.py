"""dskd: rows that are paired or seen, maps that keep logits, properties, options, refusals."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from losses.alignment.tokens import Tokens
from losses.alignment.vocabulary import Vocabulary
from losses.base import Pair
from losses.document import text_document
from losses.dual_space import attention
from losses.dual_space.attention import CrossAttention, Seen, Side
from losses.dual_space.rows import paired_rows, seen_rows
from losses.dual_space.shared_logits import SharedLogits
from losses.dual_space.shared_tokens import shared_tokens
from losses.dual_space.spaces import frozen
from losses.dual_space.states import hidden_states
from losses.methods.dskd import Dskd
from losses.prediction import Head, Prediction

DOCUMENT = text_document("d", "not read")
STUDENT_ENDS = [-1, 2, 3, 6, 7, 9, 10, 12, 14]
TEACHER_ENDS = [-1, 1, 2, 3, 7, 8, 9, 10, 14]  # chunks of one token on both sides: 2-3, 9-10
NUM_STUDENT, NUM_TEACHER = 9, 11
WHOLE = 2**25
VERSIONS = [Dskd(), Dskd(published=True), Dskd(version=1), Dskd(version=1, published=True)]
every = pytest.mark.parametrize("method", VERSIONS, ids=repr)


def words(size, start=1):
    return Vocabulary((None, *(b"t%d" % (start + index) for index in range(size - 1))), {0: "end"})


def head(noise, rows, width, seed, **options):
    layer = nn.Linear(width, rows + 2, bias=False, dtype=torch.float64)  # two padded rows
    with torch.no_grad():
        layer.weight.copy_(noise(rows + 2, width, seed=seed, scale=1.0))
    return Head(layer, rows, **options)


def side(hidden, head, ends, scored=None, elements=WHOLE, ids=None):
    count = len(hidden)
    marks = np.asarray(ends) > 0 if scored is None else np.asarray(scored)
    found = Prediction(
        tokens=Tokens(np.arange(count) % head.num_valid if ids is None else ids, np.asarray(ends)),
        hidden=hidden,
        head=head,
        vocabulary=words(head.num_valid),
        scored=torch.from_numpy(marks & (np.arange(count) > 0)),
        elements_in_memory=elements,
    )
    weight = torch.linspace(-1, 1, head.num_valid * hidden.shape[1], dtype=hidden.dtype)
    table = torch.sin(7 * weight).view(head.num_valid, -1)
    found.embed = nn.Embedding.from_pretrained(table)
    return found


class Toy:
    """A student of width 4 and a teacher of width 6 on one document."""

    def __init__(self, noise, elements=WHOLE, widths=(4, 6), sizes=(NUM_STUDENT, NUM_TEACHER)):
        self.heads = head(noise, sizes[0], widths[0], 1), head(noise, sizes[1], widths[1], 2)
        self.hidden = noise(9, widths[0], seed=3).requires_grad_()
        self.teacher = side(noise(9, widths[1], seed=4), self.heads[1], TEACHER_ENDS)
        self.student = side(self.hidden, self.heads[0], STUDENT_ENDS, elements=elements)
        self.pair = Pair(
            words(sizes[0]),
            words(sizes[1]),
            self.heads[1],
            student_width=widths[0],
            teacher_width=widths[1],
            student_head=self.heads[0],
        )

    def modules(self, method):
        torch.manual_seed(0)
        modules = method.modules(self.pair).double()
        for name, parameter in modules.named_parameters():
            if "t2s" in name and parameter.abs().sum() == 0:  # a correction starts at zero
                torch.nn.init.normal_(parameter, std=0.1)
        return modules

    def run(self, method, modules=None, student=None):
        student = student or self.student
        signal = method.signal(self.teacher, DOCUMENT)
        term = method.loss(student, signal, self.pair, modules or self.modules(method))
        scored = student.scored.numpy()
        assert method.num_units(student.tokens, scored, signal, self.pair) == term.units
        return term


class TestRows:
    def test_paired_by_bytes(self, noise):
        toy = Toy(noise)
        found = paired_rows(
            toy.student.tokens, toy.student.scored.numpy(), hidden_states(toy.teacher)
        )
        assert found.positions.tolist() == [1, 5]  # rows before the tokens 2-3 and 9-10
        assert found.states.tolist() == [2, 6]

    def test_a_row_sees_what_has_read_no_more(self, noise):
        toy = Toy(noise)
        states = hidden_states(toy.teacher)
        seen = seen_rows(toy.student.tokens.byte_ends, np.array([0, 1, 3]), states)
        # the student has read 0, 2 and 6 bytes, the teacher 0, 1, 2, 3, 7, 8, 9, 10
        assert seen.by_student.sum(-1).tolist() == [1, 3, 4]
        assert seen.by_teacher.sum(-1).tolist() == [1, 1, 2, 2, 3, 3, 3, 3]

    def test_shared_tokens(self):
        student = Vocabulary((b"a", b"b", b"b", None, None), {3: "end", 4: "end_of_turn"})
        teacher = Vocabulary((None, b"b", b"c", b"b", None), {0: "end_of_turn", 4: "pad"})
        found = shared_tokens(student, teacher)
        assert (found.students.tolist(), found.teachers.tolist()) == ([1], [1])
        assert found.student_of.tolist() == [4, 1, -1, 1, -1]


class TestAttention:
    def sides(self, noise):
        return [
            Side(*(noise(n, width, seed=seed + i) for i in range(3)))
            for n, width, seed in ((3, 4, 0), (5, 6, 9))
        ]

    @pytest.mark.parametrize("knows_answer", [False, True])
    def test_by_hand(self, noise, knows_answer):
        ours, theirs = self.sides(noise)
        spaces = CrossAttention(4, 6, knows_answer=knows_answer).double()
        seen = torch.tensor([[1, 0, 0, 0, 0], [1, 1, 1, 0, 0], [0, 0, 0, 0, 0]]).bool()
        found = spaces(ours, theirs, Seen(seen, seen.T))
        values = theirs.hidden / theirs.hidden.std()
        if knows_answer:
            values = values + theirs.target / theirs.target.std()
        index = torch.cat([theirs.read, theirs.target], -1)
        query = spaces.query(torch.cat([ours.read, ours.target], -1))
        scores = query @ (index / index.std()).T / 12**0.5
        second = scores[1, :3].softmax(-1) @ spaces.t2s(values)[:3]
        expected = torch.stack([spaces.t2s(values)[0], second])
        torch.testing.assert_close(found[0], expected)
        mixed = scores[:2, 0].softmax(-1) @ spaces.s2t(ours.hidden)[:2]
        alone = spaces.s2t(ours.hidden)[1]
        torch.testing.assert_close(found[1], torch.stack([mixed, alone, alone]))

    @pytest.mark.parametrize("published", [False, True])
    def test_no_row_reads_the_answer(self, noise, monkeypatch, published):
        """States that have read 7 bytes reach rows that have read less only as published."""
        one = torch.ones((), dtype=torch.float64)
        monkeypatch.setattr(attention, "scales_of", lambda _: attention.Scales(one, one, one))
        toy, method = Toy(noise), Dskd(version=1, published=published)
        modules, found = toy.modules(method), []
        for change in (0.0, 1.0):
            toy.teacher.hidden[4:] += change
            signal = method.signal(toy.teacher, DOCUMENT)
            found.append(method.parts(toy.student, signal, toy.pair, modules).answers)
        same = torch.isclose(*found)
        assert same.tolist() == [not published] * 4 + [False] * 4


class TestSharedLogits:
    def test_few_shared_tokens_keep_their_logits(self, noise):
        """Three shared tokens fit into both spaces exactly, whatever the heads' scales."""
        student, teacher = head(noise, 9, 5, 1, scale=2.0), head(noise, 11, 6, 2, scale=0.5)
        ours, theirs = words(9), words(11, start=6)
        shared = shared_tokens(ours, theirs)
        assert len(shared.students) == 3
        spaces = SharedLogits(student, shared, 6).double()
        prediction = side(noise(9, 5, seed=3), student, STUDENT_ENDS)
        states, rows = noise(4, 6, seed=4), torch.arange(4)
        projected, back = spaces(prediction, rows, teacher, states)
        torch.testing.assert_close(
            student.logits(projected)[:, shared.students],
            teacher.logits(states)[:, shared.teachers],
        )
        torch.testing.assert_close(
            teacher.logits(back)[:, shared.teachers],
            student.logits(prediction.hidden[:4])[:, shared.students],
        )

    def test_one_model_twice(self, noise):
        """Then both maps are the identity, and only the labels' cross-entropy is left."""
        toy = Toy(noise, widths=(4, 4), sizes=(9, 9))
        pair = Pair(
            words(9), words(9), toy.heads[0], student_width=4, teacher_width=4,
            student_head=toy.heads[0],
        )  # fmt: skip
        method = Dskd()
        teacher = side(toy.hidden.detach().clone(), toy.heads[0], STUDENT_ENDS)
        signal = method.signal(teacher, DOCUMENT)
        modules = method.modules(pair).double()
        parts = method.parts(toy.student, signal, pair, modules)
        torch.testing.assert_close(parts.student, torch.zeros(8).double())
        torch.testing.assert_close(parts.teacher, torch.zeros(8).double())
        largest = torch.log_softmax(toy.heads[0].logits(toy.hidden[:8]), -1).amax(-1)
        torch.testing.assert_close(parts.answers, -largest)

    def test_start_is_that_of_the_first_head(self, noise):
        """A head that trains, or is loaded from a checkpoint later, does not move it."""
        toy = Toy(noise)
        modules = Dskd().modules(toy.pair).double()
        again = Dskd().modules(toy.pair).double()
        before = modules["spaces"]._maps(toy.heads[1]).start.clone()
        with torch.no_grad():
            toy.heads[0].linear.weight.mul_(3)
        torch.testing.assert_close(again["spaces"]._maps(toy.heads[1]).start, before)


@every
def test_row_chunks_change_nothing(noise, method):
    results = []
    for elements in (WHOLE, 1, 2 * NUM_TEACHER):
        toy = Toy(noise, elements=elements)
        modules = toy.modules(method)
        total = toy.run(method, modules).total
        weights = [toy.hidden, toy.heads[0].linear.weight, *modules.parameters()]
        results.append((total, *torch.autograd.grad(total, weights)))
    for other in results[1:]:
        torch.testing.assert_close(other, results[0])


CHOICES = [
    *VERSIONS,
    Dskd(restrict=False),
    Dskd(version=1, restrict=False),
    Dskd(restrict=False, divergence="reverse"),
    Dskd(restrict=False, divergence="js"),
    Dskd(restrict=False, divergence="skewed_forward"),
    Dskd(restrict=False, divergence="skewed_reverse"),
    Dskd(restrict=False, divergence="tvd"),
    Dskd(restrict=False, temperature=1.0),
]


@pytest.mark.parametrize("method", CHOICES, ids=repr)
def test_gradient_to_the_hidden_states(noise, method):
    toy = Toy(noise)
    modules = toy.modules(method)
    signal = method.signal(toy.teacher, DOCUMENT)

    def total(hidden):
        student = side(hidden, toy.heads[0], STUDENT_ENDS)
        return method.loss(student, signal, toy.pair, modules).total

    assert torch.autograd.gradcheck(total, toy.hidden, fast_mode=True)


@pytest.mark.parametrize("version", [1, 2])
def test_gradient_to_the_projectors(noise, version):
    """By differences, of the parts in which no target is held fixed."""
    toy, method = Toy(noise), Dskd(version=version)
    modules = toy.modules(method)
    signal = method.signal(toy.teacher, DOCUMENT)

    def total():
        parts = method.parts(toy.student, signal, toy.pair, modules)
        return parts.answers.sum() + parts.teacher.sum()

    for parameter in modules.parameters():
        (gradient,) = torch.autograd.grad(total(), parameter)
        step = torch.randn_like(parameter)
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.add_(sign * 1e-6 * step)
                values.append(total().item())
                parameter.sub_(sign * 1e-6 * step)
        expected = (values[0] - values[1]) / 2e-6
        assert (gradient * step).sum().item() == pytest.approx(expected, rel=1e-4, abs=1e-7)


@every
def test_heads_learn_from_the_student_alone(noise, method):
    """The head of the projected teacher is held fixed, and the teacher's gets nothing."""
    toy = Toy(noise)
    modules = toy.modules(method)
    signal = method.signal(toy.teacher, DOCUMENT)
    parts = method.parts(toy.student, signal, toy.pair, modules)
    weights = [head.linear.weight for head in toy.heads]
    for part in (parts.answers, parts.teacher):
        found = torch.autograd.grad(part.sum(), weights, retain_graph=True, allow_unused=True)
        assert found[0] is None or found[0].abs().sum() == 0
    assert all(weight.requires_grad for weight in weights)
    loose = replace(method, restrict=False)
    student = loose.parts(toy.student, signal, toy.pair, modules).student
    (gradient,) = torch.autograd.grad(student.sum(), weights[:1])
    assert gradient.abs().sum() > 0


def test_frozen_module_is_trained_again():
    layer = nn.Linear(2, 2)
    layer.bias.requires_grad_(requires_grad=False)
    with frozen(layer):
        assert not layer.weight.requires_grad
    assert (layer.weight.requires_grad, layer.bias.requires_grad) == (True, False)


def test_every_option_changes_the_result(noise):
    """On a document in which some of the teacher's choices are tokens of the student."""
    totals = []
    for method in [*CHOICES, Dskd(restrict=False, divergence="adaptive")]:
        toy = Toy(noise)
        toy.teacher = side(toy.teacher.hidden, toy.heads[1], STUDENT_ENDS)
        toy.pair = replace(toy.pair, teacher=words(NUM_TEACHER, start=5))
        totals.append(toy.run(method).total.item())
    assert len({round(total, 9) for total in totals}) == len(totals)
    assert Dskd(projector_learning_rate=0.1).modules_learning_rate == 0.1


@every
def test_parts_are_told(noise, method):
    term = Toy(noise).run(method)
    assert set(term.metrics) == {"answers", "student", "teacher"}
    assert sum(term.metrics.values()).item() == pytest.approx(term.total.item())
    assert not any(value.requires_grad for value in term.metrics.values())


@every
@pytest.mark.parametrize("unscored", ["student", "teacher", "both"])
def test_document_without_rows(noise, method, unscored):
    """Modules and heads are called all the same: under ZeRO-3 all ranks must gather them."""
    toy, nothing, calls = Toy(noise), np.zeros(9, dtype=bool), []
    if unscored != "student":
        toy.teacher = side(toy.teacher.hidden, toy.heads[1], TEACHER_ENDS, nothing)
    if unscored != "teacher":
        toy.student = side(toy.hidden, toy.heads[0], STUDENT_ENDS, nothing)
    modules = toy.modules(method)
    for module in (*modules["spaces"].children(), toy.heads[0].linear):
        module.register_forward_hook(lambda module, *_: calls.append(module))
    term = toy.run(method, modules)
    term.total.backward()
    assert (term.units, term.total.item()) == (0, 0.0)
    assert set(calls) == {*modules["spaces"].children(), toy.heads[0].linear}
    assert torch.isfinite(toy.hidden.grad).all()


class TestRefusals:
    def test_no_shared_token(self):
        pair = Pair(words(5), words(5, start=50))
        with pytest.raises(ValueError, match=r"share no token.*version: 1, or alm"):
            Dskd().check(pair)
        Dskd(version=1).check(pair)
        Dskd().check(Pair(words(5), words(7)))

    def test_published_without_effect(self):
        with pytest.raises(ValueError, match='"published" has no effect'):
            Dskd(version=1, published=True).check(Pair(words(5), words(5)))
        Dskd(version=1).check(Pair(words(5), words(5)))

    def test_what_is_missing(self, noise):
        toy = Toy(noise)
        with pytest.raises(ValueError, match="hidden_size"):
            Dskd().modules(Pair(words(5), words(7)))
        with pytest.raises(ValueError, match="starts from the student's head"):
            Dskd().modules(Pair(words(5), words(7), student_width=4, teacher_width=6))
        modules = toy.modules(Dskd())
        signal = Dskd().signal(toy.teacher, DOCUMENT)
        with pytest.raises(ValueError, match=r"pass Pair\.teacher_head"):
            Dskd().loss(toy.student, signal, Pair(words(9), words(11)), modules)
        toy.teacher.embed = None
        with pytest.raises(ValueError, match="no input embeddings"):
            Dskd(version=1).signal(toy.teacher, DOCUMENT)


def test_signal_sizes(noise):
    """Version 1 sends embeddings too, of each token once."""
    toy = Toy(noise)
    first, second = (Dskd(version=v).signal(toy.teacher, DOCUMENT) for v in (1, 2))
    assert second.num_bytes == 9 * 4 + 8 * 4 + 8 * 6 * 8
    assert first.num_bytes == second.num_bytes + 9 * 6 * 8
