"""What a method makes of a server's numbers is what it makes of the model itself."""

from dataclasses import fields, replace

import numpy as np
import pytest

from losses.document import text_document
from losses.methods import method_class, method_names
from losses.methods.alm import Alm
from losses.methods.gold import Gold
from losses.methods.h_kl import HKl
from losses.methods.mined import Mined
from losses.methods.p_kl import PKl
from losses.methods.uld import Uld
from losses.mixture import Absent, TeacherScore
from losses.needs import SERVES, listed
from losses.signals import TopProbabilities, TopTokens, unpack
from losses.told import ROUNDING, Untold
from teachers.evaluation import bits_per_byte
from teachers.speaker import Speaker
from teachers.teacher import Teacher

K = 7
SERVED = [
    Alm(debias=False, merge_threshold=None),
    Alm(debias=False, merge_threshold=None, chunks="space", divergence="abs"),
    Gold(k=K, precision="float32"),
    Gold(k=K, merge="bayesian"),
    HKl(k=K),
    HKl(k=K, chunk="mean", precision="bfloat16"),
    Mined(k=K),
    Mined(k=K, published="dskd"),
    PKl(k=K),
    PKl(k=3, precision="float32"),
    Uld(k=K),
    Uld(k=K, merge="positions"),
]
OTHERS = [name for name in method_names() if not method_class(name).reads <= SERVES["openai"]]


def in_order(signal):
    """The listed tokens sorted by their ids (or by how likely they are), as told and as live."""
    values = unpack(signal.others).double().numpy()
    keys = signal.ids if isinstance(signal, TopTokens) else -values
    order = np.argsort(keys, axis=-1, kind="stable")
    return np.take_along_axis(values, order, -1), np.take_along_axis(keys, order, -1)


def same(told, live) -> None:
    assert type(told) is type(live)
    assert told.num_bytes == live.num_bytes
    if isinstance(live, TopProbabilities):
        tolerance = {4: 1e-5, 2: 0.05}[live.others.itemsize]
        for ours, theirs in zip(in_order(told), in_order(live), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=tolerance, rtol=0)
        np.testing.assert_allclose(np.exp(told.tail), np.exp(live.tail), atol=2 * ROUNDING, rtol=0)
    for field in fields(live):
        if field.name not in ("others", "tail", "ids") or not isinstance(live, TopProbabilities):
            ours, theirs = getattr(told, field.name), getattr(live, field.name)
            np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=0)
            assert ours.dtype == theirs.dtype


@pytest.mark.parametrize("tokenizer", ["bytelevel", "sentencepiece"])
def test_signals_are_those_of_the_live_model(
    language_model, scripted_server, ask, documents, tokenizer
):
    model = language_model("llama", tokenizer)
    live = Teacher(model, SERVED).signals(documents)
    with scripted_server(model) as server:
        told = ask(server, *SERVED, top_logprobs=K + 1).signals(documents)
    for ours, theirs in zip(told, live, strict=True):
        for mine, other in zip(ours, theirs, strict=True):
            same(mine, other)


@pytest.mark.parametrize("dialect", ["sglang", "echo"])
def test_every_dialect_says_the_same(server, ask, documents, dialect):
    methods = (PKl(k=K), Alm(debias=False, merge_threshold=None))
    expected = Teacher(server.model, methods).signals(documents)
    found = ask(server, *methods, dialect=dialect).signals(documents)
    for ours, theirs in zip(found, expected, strict=True):
        for mine, other in zip(ours, theirs, strict=True):
            same(mine, other)


def test_a_whole_vocabulary_leaves_nothing(server, ask, documents):
    size = len(server.model.tokenizer.vocabulary)
    method = PKl(k=size + 100, precision="float32")
    [[ours]] = ask(server, method, top_logprobs=size + 101).signals(documents[:1])
    [[theirs]] = Teacher(server.model, [method]).signals(documents[:1])
    same(ours, theirs)
    assert ours.others.shape[1] == size - 1
    assert np.isneginf(ours.tail).all()
    assert np.isneginf(theirs.tail).all()


def test_rows_that_pad_the_model_are_no_tokens(language_model, scripted_server, ask, documents):
    model = language_model("llama", padded_rows=60)
    wide = type(model.head)(model.head.linear, model.head.num_valid + 60)
    with scripted_server(type(model)(model.model, model.tokenizer, wide)) as server:
        [[found]] = ask(server, PKl(k=3), top_logprobs=30).signals(documents[-1:])
    assert found.ids.max() < len(model.tokenizer.vocabulary)


@pytest.mark.parametrize("name", OTHERS)
def test_what_reads_more_is_refused_by_its_need(server, ask, documents, name):
    method = method_class(name)()
    with pytest.raises(Untold, match="alone, but the method reads") as caught:
        ask(server, method).signals(documents[:1])
    assert any(f"reads {need}" in str(caught.value) for need in listed(method.needs))


@pytest.mark.parametrize(
    "method", [Alm(), PKl(k=3, temperature=2.0), Gold(k=3, merge="observed")], ids=repr
)
def test_options_that_read_whole_rows_are_refused(server, ask, documents, method):
    with pytest.raises(Untold, match="the method reads full distributions"):
        ask(server, method).signals(documents[:1])


def test_a_list_that_is_too_short_is_refused(server, ask, documents):
    server.faults.extend(["right", "right", "short list"])
    with pytest.raises(ValueError, match=r"5 likely tokens .* raise|lower the method's k"):
        ask(server, PKl(k=5)).signals(documents[:1])


def test_bits_per_byte_are_those_of_the_live_model(server, ask, documents):
    teacher = ask(server)
    ours, theirs = (t.evaluate(documents) for t in (teacher, Teacher(server.model, [])))
    assert bits_per_byte(ours) == pytest.approx(bits_per_byte(theirs), abs=1e-6)
    assert [(s.num_bytes, s.num_tokens) for s in ours] == [
        (s.num_bytes, s.num_tokens) for s in theirs
    ]


def test_the_mixture_s_score(server, ask, documents):
    [expected] = Teacher(server.model, [PKl(k=2)], asks="ce").signals(documents[:1])
    [found] = ask(server, PKl(k=2), asks="ce").signals(documents[:1])
    assert isinstance(found[-1], TeacherScore)
    assert found[-1].nats == pytest.approx(expected[-1].nats, abs=1e-4)


def test_documents_of_other_teachers_are_not_asked(server, ask, documents):
    away, here = replace(documents[0], teachers=("somebody",)), documents[2]
    rows = ask(server, PKl(k=2)).signals([away, here])
    assert isinstance(rows[0][0], Absent)
    assert not isinstance(rows[1][0], Absent)
    [view] = server.model.tokenizer.encode([here])
    assert all(request["prompt"] == view.ids.tolist() for request in server.requests)


def test_one_request_serves_all_methods_and_all_parts(server, ask, documents):
    teacher = ask(server, PKl(k=2), Uld(k=3), Alm(debias=False, merge_threshold=None))
    teacher.signals(documents)
    before = len(server.requests)
    rows = teacher.signals_of_parts(documents, [(0,), (1, 2)])
    assert [len(row) for row in rows] == [1, 2] * len(documents)
    assert len(server.requests) - before == sum(
        len(view) > 1 for view in server.model.tokenizer.encode(documents)
    )


def test_a_text_that_nothing_can_be_said_of_is_not_sent(server, ask):
    [[found]] = ask(server).signals([text_document("empty", "")])
    assert not server.requests
    assert not len(found.realised)


def test_it_is_a_speaker_without_a_head(server, ask):
    teacher = ask(server)
    assert isinstance(teacher, Speaker)
    with pytest.raises(ValueError, match="behind a server, which gives no weights"):
        teacher.head_weights()
