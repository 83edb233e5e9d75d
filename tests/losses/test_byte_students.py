"""Slots on the student's tokens, heads that predict bytes, a model at another temperature."""

import math

import numpy as np
import pytest
import torch
from torch.func import functional_call
from torch.nn import functional as F

from losses.alignment.vocabulary import Vocabulary
from losses.byte_distributions import byte_positions, floored
from losses.byte_students.comparison import byte_cross_entropy, byte_kl, ruled_out
from losses.byte_students.heads import (
    PADDING,
    START,
    TOKEN_END,
    TURN_END,
    ConditionedHead,
    ParallelHead,
    symbol_logprobs,
)
from losses.byte_students.slots import Places, Slots, teacher_rows, token_contents
from losses.byte_students.tempering import tempered
from losses.signals import ByteDistributions

WORDS = Vocabulary((b"a", b" ab", b"bc", "é".encode(), None), {4: "end_of_turn"})
HEADS = [ParallelHead, ConditionedHead]


def signal_at(positions, symbols=257):
    rows = np.full((len(positions), symbols), -math.log(symbols), dtype=np.float16)
    return ByteDistributions(np.asarray(positions, dtype=np.int32), rows)


def slots_of(prediction, positions):
    scored = prediction.scored.numpy()
    ours = byte_positions(prediction.tokens, scored, prediction.vocabulary)
    theirs = Places.of(signal_at(positions))
    return Slots.match(
        theirs, Places.of_bytes(ours), prediction.tokens, scored, prediction.vocabulary
    )


def chat(predict, **options):
    """``abbcé`` and the end of the turn, without the space that the first token begins with."""
    return predict(
        torch.zeros(6, 5), [-1, 2, 4, 6, 7, 8], ids=[4, 1, 2, 3, 4, 0], vocabulary=WORDS, **options
    )


class TestSlots:
    def test_every_byte_of_a_document(self, predict):
        slots = slots_of(chat(predict), range(8))
        assert slots.token.tolist() == [1, 1, 2, 2, 3, 3, 4, 5]
        assert slots.place.tolist() == [1, 2, 0, 1, 0, 1, 0, 0]
        assert slots.target.tolist() == [*b"abbc", *"é".encode(), 256, *b"a"]
        assert slots.row.tolist() == slots.own.tolist() == list(range(8))
        assert slots.num_tokens == 5

    def test_only_what_the_teacher_speaks_of(self, predict):
        slots = slots_of(chat(predict), [1, 5, 6])
        assert slots.target.tolist() == [ord("b"), "é".encode()[1], 256]
        assert (slots.row.tolist(), slots.own.tolist()) == ([0, 1, 2], [1, 5, 6])

    def test_only_scored_tokens(self, predict):
        slots = slots_of(chat(predict, scored=[False, True, False, False, True, False]), range(8))
        assert slots.token.tolist() == [1, 1, 4]
        assert slots.row.tolist() == [0, 1, 6]

    def test_golden_grid(self, predict, golden):
        case = golden("byte/17_student_grid")
        table = tuple(bytes.fromhex(t["bytes_hex"]) or None for t in case["student_tokens"])
        vocabulary = Vocabulary(table, {len(table) - 1: "end"})
        ids = [len(table) - 1, *case["student_ids"]]
        ends = np.cumsum([len(table[i] or b"") for i in ids])
        prediction = predict(
            torch.zeros(len(ids), len(table)),
            [-1, *ends[1:].tolist()],
            ids=ids,
            vocabulary=vocabulary,
        )
        slots = slots_of(prediction, range(int(ends[-1])))
        kept = slots.where(slots.place < case["H"])
        expected = [row for row in case["grid"] if row["supervised"]]
        names = ("student_token_index", "slot", "byte_position", "target")
        found = zip(kept.token - 1, kept.place, kept.row, kept.target, strict=True)
        assert [tuple(map(int, row)) for row in found] == [
            tuple(row[name] for name in names) for row in expected
        ]
        assert len(slots) == len(case["grid"])

    def test_contents(self):
        found = token_contents(np.array([1, 4, 2]), WORDS, 2)
        assert found.tolist() == [list(b" a"), [-1, -1], list(b"bc")]


@pytest.fixture
def golden_loss(golden):
    case = golden("byte/16_bld_loss")
    inputs = {
        name: torch.tensor(case["inputs"][name], dtype=torch.float64)
        for name in ("token_logits", "byte_logits", "teacher_bytes")
    }
    target = torch.tensor(case["inputs"]["byte_target"])
    return case, inputs, target, target >= 0


class TestGoldenLoss:
    def test_every_slot_and_its_gradient(self, golden_loss):
        case, inputs, target, valid = golden_loss
        logits = inputs["byte_logits"].requires_grad_()
        student = logits.log_softmax(-1)[valid]
        found = {
            "ce_byte": byte_cross_entropy(student, target[valid]),
            "kl_byte": byte_kl(inputs["teacher_bytes"][valid].log(), student),
        }
        for name, values in found.items():
            known = [v for row in case["per_slot"][name] for v in row if v is not None]
            expected = torch.tensor(known, dtype=torch.float64)
            torch.testing.assert_close(values, expected, atol=1e-9, rtol=0)
            (gradient,) = torch.autograd.grad(values.sum(), logits, retain_graph=True)
            known = case["unreduced_grad_wrt_byte_logits"][name]
            expected = torch.tensor(known, dtype=torch.float64)
            torch.testing.assert_close(gradient, expected, atol=1e-9, rtol=0)


def test_bytes_that_the_student_rules_out(noise):
    """What is left is the KL among the other symbols, times the teacher's mass on them."""
    teacher = noise(3, 257).log_softmax(-1)
    masses = noise(3, 257, seed=1).exp()
    masses[:, 100:] = 0
    student = floored(masses)
    found = byte_kl(teacher, student) - ruled_out(teacher, student)
    p, q = teacher[:, :100], masses[:, :100].log()
    within = byte_kl(p, q.log_softmax(-1))
    torch.testing.assert_close(found, p.exp().sum(-1) * within, atol=1e-6, rtol=1e-6)
    assert (ruled_out(teacher, student) > 1).all()


@pytest.mark.parametrize("kind", HEADS)
class TestHeads:
    def test_gradients(self, kind, noise):
        torch.manual_seed(0)
        head = kind(3, 2).double()
        contents = torch.tensor([[97, -1], [98, 99]])
        states = noise(2, 3).requires_grad_()

        names, parameters = zip(*head.named_parameters(), strict=True)

        def summed(states, *values):
            named = dict(zip(names, values, strict=True))
            logits = functional_call(head, named, (states, contents))
            return (logits.log_softmax(-1) * noise(2, 2, 260, seed=1)).sum()

        assert torch.autograd.gradcheck(summed, (states, *parameters), fast_mode=True)

    def test_rows_do_not_see_each_other(self, kind, noise):
        torch.manual_seed(0)
        head = kind(6, 4)
        states, contents = noise(3, 6).float(), torch.arange(12).view(3, 4)
        alone = [head(states[i : i + 1], contents[i : i + 1]) for i in range(3)]
        torch.testing.assert_close(torch.cat(alone), head(states, contents))

    def test_no_rows(self, kind):
        head = kind(6, 4)
        none = head(torch.zeros(0, 6), torch.zeros(0, 4, dtype=torch.long))
        assert none.shape == (0, 4, 260)
        none.sum().backward()
        assert all(p.grad is not None for p in head.parameters())

    def test_half_precision_states_and_weights(self, kind, noise):
        head = kind(6, 4).bfloat16()
        logits = head(noise(2, 6).float(), torch.zeros(2, 4, dtype=torch.long))
        assert logits.dtype == torch.float32


def test_a_conditioned_head_sees_only_the_bytes_before(noise):
    torch.manual_seed(0)
    head = ConditionedHead(6, 4)
    states, contents = noise(1, 6).float(), torch.tensor([[1, 2, 3, 4]])
    first = head(states, contents)
    for place in range(4):
        changed = contents.clone()
        changed[0, place] = 200
        moved = (head(states, changed) - first).abs().amax(-1)[0] > 1e-6
        assert moved.tolist() == [other > place for other in range(4)]


def test_parallel_heads_are_one_linear_map(noise):
    head = ParallelHead(6, 10)
    assert head.linear.weight.shape == (2600, 6)
    states = noise(2, 6).float()
    weight, bias = head.linear.weight[3 * 260 : 4 * 260], head.linear.bias[3 * 260 : 4 * 260]
    logits = head(states, torch.zeros(2, 10, dtype=torch.long))[:, 3]
    torch.testing.assert_close(logits, F.linear(states, weight, bias))


def test_symbols_have_their_classes(noise):
    logits = noise(2, 260)
    found, table = symbol_logprobs(logits, 258), logits.log_softmax(-1)
    torch.testing.assert_close(found[:, :256], table[:, :256])
    torch.testing.assert_close(found[:, 256:], table[:, [TURN_END, TOKEN_END]])
    assert symbol_logprobs(logits, 257).shape == (2, 257)
    assert len({PADDING, TOKEN_END, TURN_END, START}) == 4


def test_temperature_divides_logits(predict, noise):
    logits = noise(4, 5)
    found = tempered(predict(logits), 3.0)
    table = found.map_rows(lambda rows: rows, torch.tensor([0, 2]))
    torch.testing.assert_close(table, (logits[[0, 2]] / 3).log_softmax(-1))
    same = predict(logits)
    assert tempered(same, 1.0) is same


def test_the_teachers_rows_of_slots(predict):
    slots = slots_of(chat(predict), [1, 5, 6])
    rows = teacher_rows(signal_at([1, 5, 6]), slots.where(np.array([False, True, True])))
    assert rows.shape == (2, 257)
