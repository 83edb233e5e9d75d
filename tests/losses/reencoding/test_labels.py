"""Pseudo-labels against brute force on toy vocabularies, and what they must not depend on."""

import math

import numpy as np
import pytest
import torch

from losses.alignment.tokens import Tokens
from losses.methods.sedi import Sedi

EXACT = "float32"


def groups_of(student, teacher, text):
    """Positions on both sides between common borders that are borders of characters."""
    characters = {len(text[:count].encode()) for count in range(len(text) + 1)}
    borders = set(student.byte_ends.tolist()) & set(teacher.byte_ends.tolist()) & characters
    groups, start = [], 0
    for end in sorted(border for border in borders if border > 0):
        sides = [
            [i for i, e in enumerate(side.byte_ends.tolist()) if start < e <= end]
            for side in (student, teacher)
        ]
        groups.append(tuple(sides))
        start = end
    return groups


def continuations(world, teacher, theirs, window):
    """(mass, bytes, special) of all that a group could be, and how unsure the teacher is."""
    table = torch.log_softmax(teacher.hidden, -1)
    ids, bytes_of = teacher.tokens.ids.tolist(), world.teacher_vocabulary.token_bytes
    found, unsure = [], 0.0
    for place, token in enumerate(theirs):
        if window == "last" and token != theirs[-1]:
            continue
        before = theirs[:place]
        prefix = b"".join(bytes_of[ids[t]] for t in before)
        mass = sum(table[t - 1, ids[t]].item() for t in before) if window == "chain" else 0.0
        row = table[token - 1]
        unsure += math.exp(mass) * -(row.exp() * row).sum().item()
        for index, value in enumerate(row.tolist()):
            if token == theirs[-1] or index != ids[token]:
                found.append((mass + value, prefix, index))
    return sorted(found, reverse=True), unsure


def pieces_of(world, prefix, index):
    """The student's tokens of a candidate; none if it is no text or an unpaired special."""
    content = world.teacher_vocabulary.token_bytes[index]
    if content is None:
        end = {23: [22]}.get(index)
        return [] if end is None else world.cut(prefix, world.student_vocabulary) + end
    try:
        (prefix + content).decode()
    except UnicodeDecodeError:
        return []
    return world.cut(prefix + content, world.student_vocabulary)


def brute_force(world, teacher, student, k, window):
    """(position, id) -> score, and the teacher's entropy of each position."""
    scores, entropy = {}, {}
    text = world.document.content.decode()
    for ours, theirs in groups_of(student.tokens, teacher.tokens, text):
        found, unsure = continuations(world, teacher, theirs, window)
        found = found[:k]
        gold = student.tokens.ids[ours].tolist()
        masses = {}
        for mass, prefix, index in found:
            pieces = pieces_of(world, prefix, index)
            for place, piece in enumerate(pieces[: len(ours)]):
                if pieces[:place] == gold[:place]:
                    masses.setdefault((ours[place], piece), []).append(mass)
        for key, values in masses.items():
            total = torch.tensor(values, dtype=torch.float64).logsumexp(0).item()
            scores[key] = total - found[-1][0]
        entropy |= dict.fromkeys(ours, unsure)
    return scores, entropy


@pytest.mark.parametrize("window", ["chain", "last"])
@pytest.mark.parametrize("k", [3, 8, 100])
def test_brute_force(world, entries, window, k):
    for seed in range(4):
        teacher, student = world.teacher(seed), world.student()
        labels = world.ahead(
            Sedi(k=k, window=window, own="added", precision=EXACT), teacher, student
        )
        expected, entropy = brute_force(world, teacher, student, k, window)
        found = entries(labels)
        expected = {key: score for key, score in expected.items() if abs(score) > 1e-5}
        assert {key for key, s in found.items() if abs(s) > 1e-5} == set(expected)
        for key, score in expected.items():
            assert found[key] == pytest.approx(score, abs=2e-5)
        rows = dict(zip(labels.positions.tolist(), labels.entropy.tolist(), strict=True))
        assert rows == pytest.approx({key: entropy[key] for key in rows}, abs=1e-5)
        assert min(score for score in found.values()) > -1e-6


def test_the_toy_document_has_every_kind_of_group(world):
    found = groups_of(
        world.student().tokens, world.teacher().tokens, world.document.content.decode()
    )
    sizes = [(len(ours), len(theirs)) for ours, theirs in found]
    assert sizes == [(1, 2), (2, 3), (1, 2), (2, 1), (1, 1), (1, 1), (1, 1), (2, 1)]


@pytest.mark.parametrize("own", ["rest", "added"])
@pytest.mark.parametrize("window", ["chain", "last"])
def test_an_offset_of_the_teacher_changes_nothing(world, window, own):
    method = Sedi(k=5, window=window, own=own, precision=EXACT)
    plain = world.ahead(method, world.teacher(3))
    shifted = world.ahead(method, world.teacher(3, shift=-17.0))
    np.testing.assert_allclose(shifted.scores, plain.scores, atol=1e-4)
    assert np.array_equal(shifted.ids, plain.ids)
    published = Sedi(k=5, published=True, precision=EXACT)
    raw = [world.ahead(published, world.teacher(3, shift=shift)).scores for shift in (0.0, -17.0)]
    assert np.abs(raw[0] - raw[1]).max() == pytest.approx(17.0, abs=1e-4)


def peaked(world, probabilities, text):
    """A teacher whose rows are told by the position of the token that they predict."""
    tokens = world.tokens_of(world.teacher_vocabulary, text)
    table = torch.full((len(tokens), len(world.teacher_vocabulary)), 1e-12, dtype=torch.float64)
    for position, row in probabilities.items():
        for index, probability in row.items():
            table[position - 1, index] = probability
    return world.predict(table.log(), tokens, world.teacher_vocabulary)


def test_by_hand(world, entries):
    """The student writes " cats" in one token, the teacher in two.

    " c" 0.5 then "ats" 0.8, "low" 0.2; " " 0.3, "s" 0.2. " clow" is " cl", "o", "w".
    """
    text = " cats"
    teacher = peaked(world, {1: {1: 0.5, 6: 0.3, 5: 0.2}, 2: {2: 0.8, 3: 0.2}}, text)
    student = world.student(text=text)
    labels = world.ahead(Sedi(k=4, own="added", precision=EXACT), teacher, student)
    logs = {21: 0.4, 6: 0.3, 5: 0.2, 3: 0.1}
    assert entries(labels) == pytest.approx(
        {(1, index): math.log(p / 0.1) for index, p in logs.items() if p > 0.1}, abs=1e-5
    )
    assert labels.ids.shape == (1, 4)
    second = -(0.8 * math.log(0.8) + 0.2 * math.log(0.2))
    first = -sum(p * math.log(p) for p in (0.5, 0.3, 0.2))
    assert labels.entropy[0] == pytest.approx(first + 0.5 * second, abs=1e-5)
    last = world.ahead(Sedi(k=2, window="last", own="added", precision=EXACT), teacher, student)
    assert entries(last) == pytest.approx({(1, 21): math.log(4)}, abs=1e-5)
    assert last.entropy[0] == pytest.approx(second, abs=1e-5)


def test_collisions_add_up(world, entries):
    """After " c" comes "l", "low", "a", "t": the first two begin with the student's " cl"."""
    text = " cats"
    teacher = peaked(world, {1: {1: 1.0}, 2: {10: 0.3, 3: 0.4, 8: 0.2, 9: 0.1}}, text)
    labels = world.ahead(
        Sedi(k=4, window="last", own="added", precision=EXACT), teacher, world.student(text=text)
    )
    assert entries(labels)[1, 3] == pytest.approx(math.log(0.7 / 0.1), abs=1e-5)
    published = Sedi(k=4, published=True, precision=EXACT)
    raw = entries(world.ahead(published, teacher, world.student(text=text)))
    assert raw[1, 3] == pytest.approx(math.log(0.3), abs=1e-5)


def test_later_tokens_count_behind_what_was_written(world, entries):
    """The student wrote " cl", "owder"; " clows" is " cl", "o", "w", "s"."""
    text = " clowder"
    teacher = peaked(world, {1: {1: 1.0}, 2: {3: 1.0}, 3: {4: 0.6, 5: 0.4}}, text)
    student = world.student(text=text)
    assert student.tokens.ids.tolist() == [0, 3, 4]
    labels = world.ahead(Sedi(k=2, window="last", own="added", precision=EXACT), teacher, student)
    assert entries(labels) == pytest.approx(
        {(1, 3): math.log(1 / 0.4), (2, 4): math.log(1.5)}, abs=1e-4
    )
    assert set(labels.ids[1].tolist()) == {4, 11}
    assert labels.num_left_out == 0


def test_a_later_token_behind_another_text_is_left_out_and_counted(world, entries):
    """The student reads " 1" as " ", "1", but wrote " cl"."""
    text = " clowder"
    teacher = peaked(world, {1: {1: 0.6, 25: 0.4}, 2: {3: 1.0}, 3: {4: 1.0}}, text)
    student = world.student(text=text)
    labels = world.ahead(Sedi(k=2, own="added", precision=EXACT), teacher, student)
    assert labels.num_left_out == 1
    assert entries(labels) == pytest.approx(
        {(1, 3): math.log(1.5), (2, 4): math.log(1.5)}, abs=1e-4
    )
    # with one row a group the published form has the alternative in the same place
    digits, student = peaked(world, {1: {26: 0.6, 25: 0.3, 2: 0.1}}, "12"), world.student(text="12")
    method = Sedi(k=3, published=True, precision=EXACT)
    assert (2, 16) in entries(world.ahead(method, digits, student))
    checked = world.ahead(Sedi(k=3, own="added", precision=EXACT), digits, student)
    assert (2, 16) not in entries(checked)


def test_ends_are_paired_by_role_and_other_specials_dropped(world, entries):
    teacher = peaked(world, {1: {16: 0.4, 23: 0.3, 24: 0.2, 17: 0.1}}, "1")
    student = world.student(text="1")
    labels = world.ahead(Sedi(k=4, own="added", precision=EXACT), teacher, student)
    assert entries(labels) == pytest.approx({(1, 16): math.log(4), (1, 22): math.log(3)}, abs=1e-4)
    published = Sedi(k=4, published=True, precision=EXACT)
    raw = world.ahead(published, teacher, student)
    assert {index for _, index in entries(raw)} == {16, 17}


def test_an_end_behind_a_text(world, entries):
    """A " c" and then the end, where the student wrote " cats"."""
    teacher = peaked(world, {1: {1: 1.0}, 2: {2: 0.7, 23: 0.3}}, " cats")
    labels = world.ahead(
        Sedi(k=2, own="added", precision=EXACT), teacher, world.student(text=" cats")
    )
    assert set(labels.ids[0].tolist()) == {21, 1}


def test_a_turn_ends_with_each_side_s_own_token(world, entries):
    """The text pairs them, though their roles differ: byte 2 is the end of a turn."""
    ids, ends = np.array([0, 16, 24]), np.array([-1, 1, 2])
    logits = torch.full((3, len(world.teacher_vocabulary)), -30.0, dtype=torch.float64)
    logits[0, 16] = 0.0
    logits[1, 24], logits[1, 17] = math.log(0.8), math.log(0.2)
    teacher = world.predict(logits, Tokens(ids, ends), world.teacher_vocabulary)
    tokens = Tokens(np.array([0, 16, 22]), ends)
    hidden = torch.zeros(3, len(world.student_vocabulary), dtype=torch.float64)
    student = world.predict(hidden, tokens, world.student_vocabulary)
    labels = world.ahead(Sedi(k=2, own="added", precision=EXACT), teacher, student)
    assert entries(labels)[2, 22] == pytest.approx(math.log(4), abs=1e-4)


@pytest.mark.parametrize(("theirs", "ours"), [(True, False), (False, True), (True, True)])
def test_a_space_put_before_the_text_is_none_of_it(world, entries, theirs, ours):
    """The document is "cats"; a side that puts a space before it reads " cats"."""

    def side(vocabulary, has_space):
        content = " cats" if has_space else "cats"
        found = world.tokens_of(vocabulary, content)
        return Tokens(found.ids, np.where(found.byte_ends > 0, found.byte_ends - has_space, -1))

    tokens = side(world.teacher_vocabulary, theirs)
    row = {1: 0.5, 6: 0.3, 5: 0.2} if theirs else {7: 0.5, 6: 0.3, 5: 0.2}
    logits = torch.full((len(tokens), len(world.teacher_vocabulary)), -30.0, dtype=torch.float64)
    for index, probability in row.items():
        logits[0, index] = math.log(probability)
    for position in range(2, len(tokens)):
        logits[position - 1, tokens.ids[position]] = 0.0
    teacher = world.predict(logits, tokens, world.teacher_vocabulary)
    own = side(world.student_vocabulary, ours)
    hidden = torch.zeros(len(own), len(world.student_vocabulary), dtype=torch.float64)
    student = world.predict(hidden, own, world.student_vocabulary)
    labels = world.ahead(Sedi(k=3, own="added", precision=EXACT), teacher, student)
    assert (1, int(own.ids[1])) in entries(labels)
    first = {index for position, index in entries(labels) if position == 1}
    assert first <= {int(own.ids[1]), 6}


def test_nothing_scored(world):
    nothing = [False] * len(world.teacher().tokens)
    teacher = world.teacher(scored=nothing)
    for method in (Sedi(), Sedi(published=True)):
        student = world.student(scored=[False] * len(world.student().tokens))
        labels = world.ahead(method, teacher, student)
        term = method.loss(student, labels, world.pair, world.modules(method))
        assert (term.units, term.total.item()) == (0, 0)
        term.total.backward()
