"""Converters against enumeration, and what must not change them."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from losses.alignment.tokens import Tokens
from losses.alignment.vocabulary import Vocabulary
from losses.byte_distributions import (
    FLOOR,
    Converter,
    byte_positions,
    convert,
    eot_logprobs,
    eot_rows,
    num_lost,
    on_path_logprobs,
    one_path_logprobs,
)
from losses.byte_distributions.beam import beam_masses
from losses.byte_distributions.branches import branch_masses
from losses.byte_distributions.paths import eot_masses, on_path_masses, one_path_masses
from losses.document import Document, Segment, chat_document
from losses.prediction import Head, Prediction

WORDS = (b"a", b"b", b"ab", b"aba", b"ba", b"bab", b"\xff", b"\xff\xff", b"a", b"ab\xff")
"""Two ids of ``a``, and bytes at the end of the range."""
paths = st.lists(st.integers(0, len(WORDS) - 1), min_size=1, max_size=4)


@dataclass(frozen=True)
class Same:
    """A model that says the same after every history."""

    logits: torch.Tensor

    def hidden_after(self, continuations):
        return self.logits.expand(len(continuations), -1)


def shares(masses):
    return (masses / masses.sum(-1, keepdim=True)).numpy()


def texts_before(model, ids):
    text = model.text(ids)
    return [text[:n] for n in range(len(text) + 1)]


@settings(max_examples=6)
@given(ids=paths, seed=st.integers(0, 9))
def test_converters_are_what_enumeration_gives(toy, ids, seed):
    model = toy.random_model(seed, WORDS)
    prediction, ids = model.predict(ids), tuple(ids)
    path = {ids[:n] for n in range(len(ids) + 1)}
    ask = prediction.continuations
    on_path, branches = on_path_masses(prediction), branch_masses(prediction, ask, 0.0)
    beam = beam_masses(prediction, ask, 10**6, 0.0)
    for row, text in enumerate(texts_before(model, ids)):
        expected = toy.enumerated(model, text, path.__contains__)
        assert np.allclose(shares(on_path)[row], expected, atol=1e-9)
        near = toy.enumerated(model, text, lambda history: history[:-1] in path or not history)
        assert np.allclose(shares(branches)[row], near, atol=1e-9)
        assert np.allclose(shares(beam)[row], toy.enumerated(model, text), atol=1e-9)


@settings(max_examples=12)
@given(ids=paths, seed=st.integers(0, 9))
def test_the_chain_rule_is_exact(toy, ids, seed):
    model = toy.random_model(seed, WORDS)
    prediction = model.predict(ids)
    rows = eot_rows(prediction.tokens, prediction.scored.numpy(), model.vocabulary)
    symbols, chain = [], shares(eot_masses(prediction))
    for index in ids:
        symbols += [*WORDS[index], 257]
    assert rows.closes[:-1].tolist() == [symbol == 257 for symbol in symbols]
    text = np.frombuffer(model.text(ids), dtype=np.uint8)
    assert text[rows.positions[~rows.closes][:-1]].tolist() == [s for s in symbols if s < 256]
    assert np.allclose(chain.sum(-1), 1)
    place = 0
    for before, index in enumerate(ids):
        size = len(WORDS[index]) + 1
        own = chain[np.arange(place, place + size), symbols[place : place + size]]
        prob = model.after(tuple(ids[:before]))
        same = [i for i, word in enumerate(WORDS) if word == WORDS[index]]
        allowed = prob.sum() - prob[-1]  # the special token is ruled out
        assert np.isclose(own.prod(), prob[same].sum() / allowed)
        place += size


@settings(max_examples=12)
@given(ids=paths, seed=st.integers(0, 9))
def test_the_renormalised_path_is_never_less_sure(toy, ids, seed):
    prediction = toy.random_model(seed, WORDS).predict(ids)
    scored = prediction.scored.numpy()
    rows = eot_rows(prediction.tokens, scored, prediction.vocabulary)
    chain = shares(eot_masses(prediction))[~rows.closes][:, :257]
    assert (shares(one_path_masses(prediction)) >= chain - 1e-12).all()


@pytest.mark.parametrize("name", ["one_path", "on_path", "branches", "beam"])
def test_rows_are_finite_distributions_at_scored_bytes(toy, name):
    model, ids = toy.random_model(0, WORDS), [2, 4, 0, 3]
    document = chat_document("d", [("assistant", model.text(ids).decode())])
    signal = convert(model.predict(ids), document, Converter(name))
    assert signal.positions.tolist() == list(range(len(document.content)))
    assert np.isfinite(signal.logprobs).all()
    assert np.allclose(np.exp(signal.logprobs.astype(np.float64)).sum(-1), 1, atol=2e-3)
    assert num_lost(signal, document) == 0


def test_the_chain_as_a_signal(toy):
    model, ids = toy.random_model(0, WORDS), [2, 4]
    document = chat_document("d", [("assistant", "abba")])
    signal = convert(model.predict(ids), document, Converter("eot"))
    assert signal.positions.tolist() == [0, 1, 2, 2, 3, 4, 4]
    assert signal.closes.tolist() == [False, False, True, False, False, True, False]
    assert np.allclose(np.exp(signal.logprobs.astype(np.float64)).sum(-1), 1, atol=2e-3)


def test_epsilon_and_width_change_the_rows(toy):
    model, ids = toy.random_model(3, WORDS, order=2), [3, 5, 2, 4]
    document = chat_document("d", [("assistant", model.text(ids).decode())])
    prediction = model.predict(ids)
    rows = [
        convert(prediction, document, converter).logprobs
        for converter in (
            Converter("one_path"),
            Converter("on_path"),
            Converter("branches", epsilon=0.2),
            Converter("branches", epsilon=0.0),
            Converter("beam", epsilon=0.0, beam=2),
            Converter("beam", epsilon=0.0, beam=50),
            Converter("beam", epsilon=0.2, beam=50),
        )
    ]
    for first in range(len(rows)):
        for second in range(first):
            assert not np.array_equal(rows[first], rows[second])


def test_without_a_model_only_the_path_can_be_read(toy):
    prediction = toy.random_model(0, WORDS).predict([0])
    prediction.continuations = None
    document = chat_document("d", [("assistant", "a")])
    with pytest.raises(ValueError, match="choose the converter on_path"):
        convert(prediction, document, Converter())


def test_a_byte_that_the_model_rules_out_keeps_the_floor_and_is_counted(toy):
    model = toy.random_model(0, (b"a", b"b"))
    rows = np.array([[0, 0.5, 0.5, 0], [0.2, 0.3, 0.5, 0], [0.25, 0.25, 0.25, 0.25]])
    never_a = type(model)(model.vocabulary, lambda history: rows[len(history)])
    document = chat_document("d", [("assistant", "a")])
    signal = convert(never_a.predict([0]), document, Converter("one_path"))
    assert np.isclose(signal.logprobs[0, ord("a")], np.log(FLOOR / 257), atol=0.01)
    assert num_lost(signal, document) == 1


def test_a_row_without_mass_is_left_out(toy):
    model = toy.random_model(0, (b"ab", b"b"))
    rows = np.array([[0, 1.0, 0, 0], [0.0, 0.5, 0.5, 0], [0.25, 0.25, 0.25, 0.25]])
    never = type(model)(model.vocabulary, lambda history: rows[len(history)])
    document = chat_document("d", [("assistant", "ab")])
    signal = convert(never.predict([0]), document, Converter("one_path"))
    assert signal.positions.tolist() == [0, 2]  # nothing begins with an a


def test_a_beam_without_a_possible_state_starts_again(toy):
    model = toy.random_model(0, (b"ab", b"b"))
    rows = np.array([[0, 1.0, 0, 0], [0.0, 0.5, 0.5, 0], [0.25, 0.25, 0.25, 0.25]])
    never = type(model)(model.vocabulary, lambda history: rows[len(history)])
    document = chat_document("d", [("assistant", "ab")])
    signal = convert(never.predict([0]), document, Converter("beam"))
    assert signal.positions.tolist() == [0, 2]  # nothing begins with an a


def test_a_beam_that_prunes_all_states_starts_again(toy):
    """After ``ab`` there are three states of a third each, and less than 0.34 is dropped."""
    model = toy.random_model(0, (b"a", b"a", b"ab", b"b"))
    first, later = np.array([0.35, 0.35, 0.3, 0, 0, 0]), np.array([0, 0, 0, 6, 1, 0]) / 7
    thirds = type(model)(model.vocabulary, lambda history: later if history else first)
    document = chat_document("d", [("assistant", "abb")])
    signal = convert(thirds.predict([2, 3]), document, Converter("beam", epsilon=0.34))
    assert signal.positions.tolist() == [0, 1, 3]  # at byte 2 no token ends, and none goes on


def test_the_order_of_ids_does_not_matter(toy):
    model, ids = toy.random_model(5, WORDS, order=1), [2, 4, 7]
    turned = np.random.default_rng(0).permutation(len(model.vocabulary))
    place = np.argsort(turned)
    table = tuple(model.vocabulary.token_bytes[i] for i in turned)
    roles = {int(place[i]): role for i, role in model.vocabulary.roles.items()}
    other = type(model)(
        Vocabulary(table, roles), lambda history: model.after(tuple(turned[list(history)]))[turned]
    )
    for masses in (one_path_masses, on_path_masses):
        found = masses(other.predict([int(place[i]) for i in ids]))
        assert np.allclose(shares(found), shares(masses(model.predict(ids))), atol=1e-12)


def test_chunks_of_rows_change_nothing(toy):
    model, ids = toy.random_model(5, WORDS, order=2), [2, 4, 7, 3, 0]
    whole, cut = model.predict(ids), model.predict(ids, elements=2 * len(model.vocabulary))
    for function in (one_path_logprobs, on_path_logprobs, eot_logprobs):
        assert torch.allclose(function(whole), function(cut), atol=1e-12)
    found = [branch_masses(p, p.continuations, 0.01) for p in (whole, cut)]
    assert torch.allclose(*found, atol=1e-12)


def test_unscored_bytes_get_no_row_but_count_as_history(toy):
    model, ids = toy.random_model(5, WORDS, order=2), [2, 4, 3, 0]
    scored = np.array([False, False, False, True, True, True])
    whole, part = model.predict(ids), model.predict(ids, scored=scored)
    assert byte_positions(part.tokens, scored, model.vocabulary).tolist() == [4, 5, 6, 7, 8]
    ask = whole.continuations
    one_path = [shares(one_path_masses(p)) for p in (part, whole)]
    assert np.allclose(one_path[0], one_path[1][4:], atol=1e-12)
    beam = beam_masses(part, ask, 10**6, 0.0)
    assert beam.shape == (5, 257)
    assert np.allclose(shares(on_path_masses(part)), shares(on_path_masses(whole))[4:], atol=1e-12)
    branches = [shares(branch_masses(p, ask, 0.0)) for p in (part, whole)]
    assert np.allclose(branches[0], branches[1][4:], atol=1e-12)


def test_no_token_reaches_over_a_template(toy):
    """What stands between two contents ends all covers: the rows after it begin anew."""
    model = toy.random_model(2, WORDS)
    ids = np.array([10, 2, 11, 4, 10])  # start, "ab", a special token, "ba", end of turn
    hidden = torch.stack([model.row(tuple(ids[1 : n + 1])) for n in range(5)])
    prediction = Prediction(
        tokens=Tokens(ids, np.array([-1, 2, -1, 4, 5])),
        hidden=hidden,
        head=Head(torch.nn.Identity(), len(model.vocabulary)),
        vocabulary=model.vocabulary,
        scored=torch.tensor([False, True, False, True, True]),
    )
    found = shares(on_path_masses(prediction))
    assert len(found) == 5
    root = hidden[2].exp().numpy()
    first = np.zeros(257)
    for word, prob in zip(WORDS, root, strict=False):
        first[word[0]] += prob
    first[256] = root[10]
    assert np.allclose(found[2], first / first.sum())


def test_a_space_that_the_tokenizer_put_in_front_is_read_but_has_no_row():
    vocabulary = Vocabulary((b" a", b" b", b" ab", b"b", b" ", None), {5: "end"})
    probs = torch.tensor([0.1, 0.2, 0.3, 0.15, 0.05, 0.2], dtype=torch.float64)
    prediction = Prediction(
        tokens=Tokens(np.array([5, 0, 3]), np.array([-1, 1, 2])),
        hidden=probs.log().expand(3, -1),
        head=Head(torch.nn.Identity(), 6),
        vocabulary=vocabulary,
        scored=torch.tensor([False, True, True]),
    )
    found = shares(one_path_masses(prediction))
    assert len(found) == 2
    assert np.isclose(found[0, ord("a")], 0.4 / 0.6)
    assert np.isclose(found[0, ord("b")], 0.2 / 0.6)
    on_path = shares(on_path_masses(prediction))
    assert np.isclose(on_path[1, ord("b")], (0.3 + 0.1 * 0.15) / (0.3 + 0.1))


@settings(max_examples=10)
@given(st.integers(0, 9))
def test_a_rare_prefix_keeps_its_digits(seed):
    """The masses below a prefix of 1e-15 are those of the tokens alone."""
    generator = np.random.default_rng(seed)
    words = [bytes([97 + i]) for i in range(20)] + [b"zy" + bytes([97 + i]) for i in range(6)]
    vocabulary = Vocabulary((*words, None), {len(words): "end"})
    weights = generator.random(len(words) + 1)
    weights[20:26] *= 1e-15
    logits = torch.from_numpy(np.log(weights)).expand(3, -1)
    prediction = Prediction(
        tokens=Tokens(np.array([26, 20]), np.array([-1, 3])),
        hidden=logits[:2],
        head=Head(torch.nn.Identity(), 27),
        vocabulary=vocabulary,
        scored=torch.tensor([False, True]),
    )
    found = shares(one_path_masses(prediction))[2, 97:103]
    assert np.allclose(found, weights[20:26] / weights[20:26].sum(), atol=1e-9)
    prediction.continuations = Same(logits[0])
    found = shares(beam_masses(prediction, prediction.continuations, 10, 0.01))[2, 97:103]
    assert np.allclose(found, weights[20:26] / weights[20:26].sum(), atol=1e-9)


def test_an_empty_document(toy):
    model = toy.random_model(0, WORDS)
    prediction = Prediction(
        tokens=Tokens(np.array([10]), np.array([-1])),
        hidden=model.row(())[None],
        head=Head(torch.nn.Identity(), len(model.vocabulary)),
        vocabulary=model.vocabulary,
        scored=torch.tensor([False]),
    )
    prediction.continuations = model.predict([0]).continuations
    document = Document("d", (Segment("text", b"", scored=True),))
    for name in ("one_path", "on_path", "eot", "branches", "beam"):
        assert len(convert(prediction, document, Converter(name)).positions) == 0


@pytest.mark.parametrize("function", [one_path_logprobs, on_path_logprobs, eot_logprobs])
@pytest.mark.parametrize("elements", [2**20, 10])
def test_gradients(toy, function, elements):
    model, ids = toy.random_model(1, WORDS[2:5]), [0, 2, 1]
    shape = (len(ids) + 2, len(model.vocabulary))
    logits = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    reference = model.predict(ids, elements=elements)

    def read(values: torch.Tensor) -> torch.Tensor:
        prediction = Prediction(
            tokens=reference.tokens,
            hidden=values,
            head=reference.head,
            vocabulary=model.vocabulary,
            scored=reference.scored,
            elements_in_memory=elements,
        )
        rows = function(prediction)
        return rows[:, [97, 98, 255, 256]].exp()

    assert torch.autograd.gradcheck(read, logits.requires_grad_(), fast_mode=True)
