"""Faults of a real server: those that may pass are waited out, all others are told at once."""

import logging

import numpy as np
import pytest

from losses.methods.alm import Alm
from losses.methods.p_kl import PKl
from teachers.server.client import Refused, ServerLost, WrongAnswer
from teachers.teacher import Teacher

KEY = "a-key-that-nobody-may-see"
BARE = Alm(debias=False, merge_threshold=None)
PROBES = ("right", "right")
"""Each document is asked twice before the first answer counts."""


def signal_of(teacher, documents):
    [[found]] = teacher.signals(documents[:1])
    return found.logprob


def warned(caplog) -> str:
    return "\n".join(record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("fault", ["500", "503", "429", "hang up", "cut body", "cut json"])
def test_a_fault_that_passes(server, ask, documents, fault, caplog):
    server.faults.extend([*PROBES, fault, fault])
    found = signal_of(ask(server, BARE), documents)
    np.testing.assert_allclose(
        found, signal_of(Teacher(server.model, [BARE]), documents), atol=1e-5
    )
    assert len(server.requests) == len(PROBES) + 3
    assert "(attempt 1 of 5)" in warned(caplog)


def test_an_answer_that_is_late_is_asked_for_again(server, ask, documents):
    server.faults.extend([*PROBES, "slow"])
    server.delay = 1.0
    found = signal_of(ask(server, BARE, timeout_s=0.5), documents)
    assert np.isfinite(found).any()
    assert len(server.requests) == len(PROBES) + 2


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("503", "with status 503"),
        ("hang up", "cannot be reached, or cut its answer"),
        ("slow", r"did not answer /v1/completions within 0.5 s; raise server.timeout_s"),
        ("cut json", "answered /v1/completions with what cannot be read"),
    ],
)
def test_a_fault_that_stays(server, ask, documents, fault, words):
    server.delay = 1.0
    server.faults.extend([*PROBES, *[fault] * 3])
    with pytest.raises(ServerLost, match=words) as caught:
        ask(server, retries=2, timeout_s=0.5).signals(documents[:1])
    assert str(caught.value).startswith(f"teacher gemma: the server at {server.url}")
    assert len(server.requests) == len(PROBES) + 3


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("cut prompt", r"tells \d+ tokens, but \d+ were sent: it cut the text, or added to it"),
        ("long prompt", r"tells \d+ tokens, but \d+ were sent: it cut the text, or added to it"),
        ("other ids", r"read token \d+ at place 0, but \d+ was sent"),
        ("unsure ids", r"no log-probability of token \d+ at place \d+: it read another text"),
        ("no logprobs", r"prompt_logprobs Input should be a valid array; expected the answer of"),
        ("no number", "Input should be a finite number"),
        ("above zero", "a log-probability above 0 at place 1"),
    ],
)
def test_an_answer_that_cannot_be_used_is_not_asked_for_again(server, ask, documents, fault, words):
    server.faults.extend([*PROBES, fault])
    with pytest.raises(WrongAnswer, match=words):
        ask(server, BARE, top_logprobs=0).signals(documents[:1])
    assert len(server.requests) == len(PROBES) + 1


def test_the_document_is_named(server, ask, documents):
    server.faults.extend([*PROBES, "other ids"])
    with pytest.raises(WrongAnswer, match=f"about document {documents[0].name} what cannot be"):
        ask(server).signals(documents[:1])


@pytest.mark.parametrize(
    ("fault", "words"),
    [("as text", 'tells a token as the text "the", which several ids'), ("cut prompt", "tells")],
)
def test_an_echo_that_cannot_be_used(server, ask, documents, fault, words):
    server.faults.extend([*PROBES, fault])
    with pytest.raises(WrongAnswer, match=words):
        ask(server, dialect="echo").signals(documents[:1])


@pytest.mark.parametrize("fault", ["other ids", "cut prompt", "no logprobs"])
def test_sglang_s_answers_are_checked_alike(server, ask, documents, fault):
    server.faults.extend([*PROBES, fault])
    with pytest.raises(WrongAnswer):
        ask(server, dialect="sglang").signals(documents[:1])


def test_a_refusal_is_not_asked_for_again(server, ask, documents):
    server.faults.extend([*PROBES, "400"])
    with pytest.raises(Refused, match="with status 400"):
        ask(server).signals(documents[:1])
    assert len(server.requests) == len(PROBES) + 1


def test_nobody_listens(scripted_server, model, ask, documents):
    with scripted_server(model) as gone:
        pass
    with pytest.raises(ServerLost, match=r"cannot be reached.*check server.url"):
        ask(gone, retries=1)


class TestKey:
    def test_it_is_sent(self, scripted_server, model, ask, documents, monkeypatch):
        monkeypatch.setenv("SERVER_KEY", KEY)
        with scripted_server(model, key=KEY) as server:
            assert ask(server, api_key_variable="SERVER_KEY").signals(documents[:1])

    def test_a_variable_that_is_not_set(self, server, ask, monkeypatch):
        monkeypatch.delenv("SERVER_KEY", raising=False)
        with pytest.raises(ValueError, match=r"the environment variable SERVER_KEY .* is not set"):
            ask(server, api_key_variable="SERVER_KEY")

    @pytest.mark.parametrize("damage", ["\n", " ", "é"])
    def test_what_no_header_can_hold_is_refused_unseen(self, server, ask, monkeypatch, damage):
        monkeypatch.setenv("SERVER_KEY", KEY + damage)
        with pytest.raises(ValueError, match=r"SERVER_KEY .* holds a line break") as caught:
            ask(server, api_key_variable="SERVER_KEY")
        assert KEY not in str(caught.value)

    @pytest.mark.parametrize("fault", ["400", "500", "wrong"])
    def test_it_is_never_told(
        self, scripted_server, model, ask, documents, monkeypatch, caplog, fault
    ):
        caplog.set_level(logging.DEBUG)
        monkeypatch.setenv("SERVER_KEY", KEY)
        with scripted_server(model, key="another" if fault == "wrong" else KEY) as server:
            server.faults.extend([fault] * 9)
            with pytest.raises((Refused, ServerLost)) as caught:
                ask(server, api_key_variable="SERVER_KEY", retries=1).signals(documents[:1])
        assert "***" in str(caught.value)
        assert KEY not in str(caught.value) + repr(caught.value) + warned(caplog) + caplog.text


def test_no_more_requests_at_once_than_allowed(server, ask, documents):
    server.pause = 0.05
    ask(server, concurrency=3).signals(documents)
    assert server.most == 3


def test_answers_keep_the_order_of_the_documents(server, ask, documents):
    expected = Teacher(server.model, [BARE]).signals(documents)
    teacher = ask(server, BARE, concurrency=4, timeout_s=5.0)
    teacher.signals(documents)
    server.faults.extend(["slow", "right", "500", "right", "right"])
    server.delay = 0.3
    for [ours], [theirs] in zip(teacher.signals(documents), expected, strict=True):
        np.testing.assert_allclose(ours.logprob, theirs.logprob, atol=1e-5)


class TestModel:
    def test_the_longest_document_is_known_before_the_first(self, server, ask):
        server.max_model_len = 20
        assert ask(server, longest=19)
        with pytest.raises(ValueError, match=r"the longest document of the run is 20 tokens long"):
            ask(server, longest=20)

    def test_another_name(self, server, ask):
        with pytest.raises(WrongAnswer, match='does not serve "gemma-3", but "toy"; set the key'):
            ask(server, model="gemma-3")

    def test_a_server_that_lists_none_is_believed(self, server, ask, documents, caplog):
        server.lists_models = False
        assert ask(server, model="anything").signals(documents[:1])
        assert "the model's name is not checked" in warned(caplog)

    def test_a_document_that_is_too_long(self, server, ask, documents):
        server.max_model_len = 20
        with pytest.raises(ValueError, match=r"document d\d is \d+ tokens long .* fewer than 20"):
            ask(server, PKl(k=2)).signals(documents)
