"""The hidden method: tokenkit's values, where states are compared, options, refusals."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from losses.alignment.chunks import align
from losses.alignment.vocabulary import Vocabulary
from losses.base import Pair
from losses.document import text_document
from losses.methods.hidden import Hidden

FOLDER = Path(__file__).parents[1] / "golden"
LATENTS = json.loads((FOLDER / "latents.json").read_text())
LAST = json.loads((FOLDER / "last_index_per_column.json").read_text())
ALM = json.loads((FOLDER / "alm_loss.json").read_text())["shared_inputs"]
DOCUMENT, EMPTY = text_document("d", "not read"), nn.ModuleDict()
WORDS = Vocabulary((None, *(b"t%d" % index for index in range(1, 9))), {0: "end"})
PAIR = Pair(WORDS, WORDS, student_width=4, teacher_width=4)
STUDENT_ENDS = [-1, 2, 3, 6, 7, 9, 10, 12, 14]
TEACHER_ENDS = [-1, 1, 2, 3, 7, 8, 9, 10, 14]  # chunks end at 2, 3, 7, 9, 10, 14
STUDENT_LAST, TEACHER_LAST = [1, 2, 4, 5, 6, 8], [2, 3, 4, 6, 7, 8]
EVERY = [
    Hidden(normalization=normalization, projector=projector)
    for normalization in ("l2", "l2_channelwise", "l1", "l1_channelwise")
    for projector in ("auto", "always")
]
every = pytest.mark.parametrize("method", EVERY, ids=repr)


def last_rows(side, kind, states):
    """Each batch entry's states at the last token of each of tokenkit's columns, joined."""
    rows = []
    for entries, own in zip(ALM["alignments"][kind][f"{side}_coo"], states, strict=True):
        last = {column: row for row, column in entries}
        rows += [own[last[column]] for column in sorted(last)]
    return torch.tensor(rows, dtype=torch.float64)


def one_token_chunks(predict, rows):
    """A document of which each token is a chunk with one of these states."""
    return predict(torch.cat([rows.new_zeros(1, rows.shape[1]), rows]))


def golden_cases():
    return [case for case in LATENTS["cases"] if "qkv" not in case["latents_to_align"]]


@pytest.mark.parametrize(
    "case", golden_cases(), ids=lambda c: "-".join(str(value) for value in list(c.values())[:4])
)
def test_tokenkit(predict, case):
    """Its mean over a batch is ours of one document with the batch's chunks."""
    inputs = LATENTS["inputs"]
    kind = "space" if case["chunks"] == "space" else "unconstrained"
    method = Hidden(
        normalization=case["normalization"], projector="always" if case["project"] else "none"
    )
    modules, layers = nn.ModuleDict(), [-1]
    if case["project"]:
        modules["projector"] = nn.Linear(4, 5, dtype=torch.float64)
        kernel = torch.tensor(inputs["projector_kernel"], dtype=torch.float64)
        modules["projector"].weight.data = kernel.T.contiguous()
        bias = torch.tensor(inputs["projector_bias"], dtype=torch.float64)
        modules["projector"].bias.data = bias
    if case["latents_to_align"] == "all_hidden_states":
        layers = range(len(inputs["teacher_hidden_states"]))
    values = []
    for layer in layers:
        states = inputs["student_hidden_states"][layer]
        ours = inputs["student_hidden_projected_input"] if case["project"] else states
        student = one_token_chunks(predict, last_rows("student", kind, ours))
        theirs = last_rows("teacher", kind, inputs["teacher_hidden_states"][layer])
        signal = method.signal(one_token_chunks(predict, theirs), DOCUMENT)
        term = method.loss(student, signal, PAIR, modules)
        values.append(term.total.item() / term.units)
    assert np.mean(values) == pytest.approx(case["loss"], rel=2e-5)


@pytest.mark.parametrize("case", LAST["cases"], ids=range(len(LAST["cases"])))
def test_last_token_of_each_chunk(case):
    """Of a chunk with a hole tokenkit takes the end of the first run; here it is the last token."""
    matrix = np.array(case["matrix"])
    inside, chunk = matrix.any(1), matrix.argmax(1)
    ends = np.where(inside, np.arange(1, len(matrix) + 1), -1)
    columns = np.flatnonzero(matrix.any(0))
    last = np.array([np.flatnonzero(inside & (chunk == column))[-1] for column in columns])
    found = align(ends, ends[last]).student_last
    has_hole = [np.diff(np.flatnonzero(matrix[:, column])).max(initial=1) > 1 for column in columns]
    for ours, column, hole in zip(found, columns, has_hole, strict=True):
        assert case["mask"][column]
        assert (ours == case["index"][column]) is not hole


def sides(predict, noise, *, student_width=4, teacher_width=4, scored=None):
    teacher = predict(noise(9, teacher_width, seed=1), TEACHER_ENDS, scored=scored)
    hidden = noise(9, student_width, seed=2).requires_grad_()
    return teacher, predict(hidden, STUDENT_ENDS)


def run(method, teacher, student, pair=PAIR, modules=None):
    signal = method.signal(teacher, DOCUMENT)
    term = method.loss(student, signal, pair, method.modules(pair) if modules is None else modules)
    scored = student.scored.numpy()
    assert method.num_units(student.tokens, scored, signal, pair) == term.units
    return term


def test_by_hand(predict, noise):
    teacher, student = sides(predict, noise)
    t, s = teacher.hidden[TEACHER_LAST], student.hidden[STUDENT_LAST]
    squares, sizes = (t - s) ** 2, (t - s).abs()
    expected = {
        "l2": squares.mean(-1) / (t**2).mean(),
        "l2_channelwise": (squares / (t**2).mean(0)).mean(-1),
        "l1": sizes.mean(-1) / t.abs().mean(),
        "l1_channelwise": (sizes / t.abs().mean(0)).mean(-1),
    }
    for normalization, rows in expected.items():
        term = run(Hidden(normalization=normalization), teacher, student)
        assert term.units == 6
        assert term.total.item() == pytest.approx(rows.sum().item(), rel=1e-6)


def test_only_live_chunks(predict, noise):
    """The teacher's token up to byte 8 is not scored, so the chunk of bytes 7 to 9 is dead."""
    scored = np.array(TEACHER_ENDS) != 8
    teacher, student = sides(predict, noise, scored=scored)
    term = run(Hidden(), teacher, student)
    keep = [0, 1, 2, 4, 5]
    t, s = teacher.hidden[TEACHER_LAST][keep], student.hidden[STUDENT_LAST][keep]
    expected = ((t - s) ** 2).mean(-1).sum() / (t**2).mean()
    assert (term.units, term.total.item()) == (5, pytest.approx(expected.item()))


def test_words(predict, noise):
    """A space stands before byte 3 only, so there are two words."""
    words = Vocabulary((None, b"ab", b"c", b" de", b"f", b"gh", b"i", b"jk", b"lm"), {0: "end"})
    pair = Pair(words, words, student_width=4, teacher_width=4)
    teacher, _ = sides(predict, noise)
    student = predict(noise(9, 4, seed=2), STUDENT_ENDS, ids=np.arange(9))
    term = run(Hidden(chunks="space"), teacher, student, pair)
    t, s = teacher.hidden[[3, 8]], student.hidden[[2, 8]]
    expected = ((t - s) ** 2).mean(-1).sum() / (t**2).mean()
    assert (term.units, term.total.item()) == (2, pytest.approx(expected.item()))


@every
def test_zero_where_states_are_equal(predict, noise, method):
    if method.projector == "always":
        modules = method.modules(PAIR).double()
        with torch.no_grad():
            modules["projector"].weight.copy_(torch.eye(4))
            modules["projector"].bias.zero_()
    else:
        modules = EMPTY
    hidden = noise(9, 4)
    teacher = predict(hidden, STUDENT_ENDS)
    student = predict(hidden.clone().requires_grad_(), STUDENT_ENDS)
    assert run(method, teacher, student, modules=modules).total.item() == 0
    teacher.hidden[3] += 0.1
    assert run(method, teacher, student, modules=modules).total.item() > 0


@every
def test_gradient(predict, noise, method):
    pair = Pair(WORDS, WORDS, student_width=3, teacher_width=4)
    teacher, student = sides(predict, noise, student_width=3)
    modules = method.modules(pair).double()
    signal = method.signal(teacher, DOCUMENT)

    def total(hidden):
        return method.loss(predict(hidden, STUDENT_ENDS), signal, pair, modules).total

    assert torch.autograd.gradcheck(total, student.hidden, fast_mode=True)
    total(student.hidden).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in modules.parameters())


@pytest.mark.parametrize("projector", ["auto", "always"])
def test_document_without_a_chunk(predict, noise, projector):
    """The projector is called all the same: under ZeRO-3 all ranks must gather it."""
    calls = []
    method = Hidden(projector=projector)
    pair = Pair(WORDS, WORDS, student_width=3, teacher_width=4)
    teacher, student = sides(predict, noise, student_width=3, scored=np.zeros(9, dtype=bool))
    modules = method.modules(pair).double()
    modules["projector"].register_forward_hook(lambda *_: calls.append(1))
    term = run(method, teacher, student, pair, modules)
    term.total.backward()
    assert (term.units, term.total.item(), calls) == (0, 0.0, [1])
    assert student.hidden.grad.abs().sum() == 0


def test_projector_only_where_it_is_needed():
    same, other = PAIR, Pair(WORDS, WORDS, student_width=3, teacher_width=4)
    assert [len(Hidden().modules(pair)) for pair in (same, other)] == [0, 1]
    assert len(Hidden(projector="always").modules(same)) == 1
    assert Hidden(projector="none").zero_at_identity
    assert not Hidden().zero_at_identity
    assert Hidden(projector_learning_rate=0.01).modules_learning_rate == 0.01


def test_refusals():
    other = Pair(WORDS, WORDS, student_width=3, teacher_width=4)
    with pytest.raises(ValueError, match=r"have 3 channels.*teacher's 4.*auto"):
        Hidden(projector="none").check(other)
    Hidden(projector="none").check(PAIR)
    Hidden().check(other)
    with pytest.raises(ValueError, match="as hidden_size in config"):
        Hidden().modules(Pair(WORDS, WORDS))
    with pytest.raises(ValidationError, match="no effect"):
        Hidden(projector="none", projector_learning_rate=0.1)


def test_every_option_changes_the_result(predict, noise):
    teacher, student = sides(predict, noise)
    torch.manual_seed(0)
    modules = Hidden(projector="always").modules(PAIR).double()
    totals = {run(method, teacher, student).total.item() for method in EVERY[::2]}
    projected = run(Hidden(projector="always"), teacher, student, modules=modules)
    assert len(totals | {projected.total.item()}) == 5
