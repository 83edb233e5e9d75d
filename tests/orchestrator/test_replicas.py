"""Replicas share documents in order, always in the same way, and answer as one teacher."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ray.exceptions import RayActorError

import orchestrator.replicas
from losses.document import text_document
from orchestrator.replicas import Parts, Replicas, groups, joined, processes, references_of


def texts(sizes):
    return [text_document(str(i), "x" * size) for i, size in enumerate(sizes)]


def actor(name, asked):
    """Answers with a reference that tells who was asked what."""

    def method(kind):
        def remote(*arguments):
            asked.append((name, kind))
            return (name, kind, arguments)

        return SimpleNamespace(remote=remote)

    kinds = ("ready", "signals", "evaluate", "renew", "worked", "head_weights", "signals_of_parts")
    return SimpleNamespace(**{kind: method(kind) for kind in kinds})


@given(st.lists(st.integers(0, 50), max_size=12), st.integers(1, 5))
def test_groups_are_the_documents_in_order(sizes, count):
    documents = texts(sizes)
    found = groups(documents, count)
    assert len(found) == count
    assert [d.name for group in found for d in group] == [d.name for d in documents]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=12), st.integers(1, 5))
def test_no_group_is_a_document_heavier_than_its_share(sizes, count):
    weights = [sum(len(d.content) for d in group) for group in groups(texts(sizes), count)]
    assert max(weights) <= sum(sizes) / count + max(sizes)


def test_equal_documents_are_shared_equally():
    assert [len(group) for group in groups(texts([7] * 8), 4)] == [2, 2, 2, 2]


def test_each_replica_is_asked_for_its_own_documents():
    asked = []
    replicas = Replicas([actor("a", asked), actor("b", asked), actor("c", asked)])
    answer = replicas.signals.remote(texts([4, 1, 1, 2, 4]))
    names = [(who, [d.name for d in arguments[0]]) for who, _, arguments in answer.references]
    assert names == [("a", ["0"]), ("b", ["1", "2", "3"]), ("c", ["4"])]


def test_a_replica_without_documents_is_not_asked():
    asked = []
    Replicas([actor("a", asked), actor("b", asked)]).evaluate.remote(texts([5]))
    assert [kind for _, kind in asked] == ["evaluate"]


def test_a_new_version_goes_to_all_and_the_head_comes_from_one():
    asked = []
    replicas = Replicas([actor("a", asked), actor("b", asked)])
    assert len(replicas.renew.remote("folder", 3)) == 2
    replicas.head_weights.remote()
    assert asked == [("a", "renew"), ("b", "renew"), ("a", "head_weights")]


class TestLoss:
    """One replica is gone for good: the others read its groups, which stay as they are."""

    DOCUMENTS = texts([4, 1, 1, 2, 4])

    @pytest.fixture
    def gone(self, monkeypatch):
        """The names of the actors that Ray knows to be dead; the others are busy."""
        found = set()

        def wait(references, num_returns, timeout):
            ready = [one for one in references if one[0] in found][:1]
            return ready, [one for one in references if one not in ready]

        def get(reference):
            raise RayActorError

        monkeypatch.setattr(orchestrator.replicas, "ray", SimpleNamespace(wait=wait, get=get))
        monkeypatch.setattr(orchestrator.replicas, "KNOWN_S", 0.05)
        return found

    @pytest.fixture
    def asked(self):
        return []

    @pytest.fixture
    def replicas(self, asked):
        return Replicas([actor(name, asked) for name in "abc"])

    def read(self, parts):
        return [(who, "".join(d.name for d in args[0])) for who, _, args in parts.references]

    def test_its_documents_are_asked_for_once_more_and_no_others(self, replicas, asked, gone):
        parts = replicas.signals.remote(self.DOCUMENTS)
        gone.add("b")
        assert replicas.stand_in() == 1
        asked.clear()
        again = replicas.again(parts, self.DOCUMENTS)
        assert asked == [("c", "signals")]
        assert self.read(again) == [("a", "0"), ("c", "123"), ("c", "4")]
        assert replicas.again(again, self.DOCUMENTS) == again

    def test_later_requests_have_the_same_groups(self, replicas, gone):
        gone.add("b")
        replicas.stand_in()
        found = self.read(replicas.signals.remote(self.DOCUMENTS))
        assert found == [("a", "0"), ("c", "123"), ("c", "4")]

    def test_only_the_living_are_asked_for_other_things(self, replicas, asked, gone):
        gone.add("a")
        replicas.stand_in()
        asked.clear()
        replicas.renew.remote("folder", 3)
        replicas.head_weights.remote()
        replicas.signals_of_parts.remote([], [])
        assert [name for name, _ in asked] == ["b", "c", "b", "b"]
        assert processes(replicas) == replicas.living == replicas.actors[1:]

    def test_until_nobody_is_left(self, replicas, gone):
        losses = []
        for name in "bca":
            gone.add(name)
            losses.append(replicas.stand_in())
        assert losses == [1, 1, 0]

    def test_who_is_only_busy_is_not_replaced(self, replicas, gone):
        assert replicas.stand_in() == 0
        assert len(replicas.living) == 3


def test_whole_requests_go_round():
    asked = []
    replicas = Replicas([actor("a", asked), actor("b", asked)])
    for _ in range(3):
        replicas.signals_of_parts.remote([], [])
    assert [name for name, _ in asked] == ["a", "b", "a"]


@pytest.mark.parametrize(
    ("answer", "references", "value"),
    [
        ("r", ["r"], [1, 2]),
        (["r", "s"], ["r", "s"], [[1, 2], [3]]),
        (Parts(("r", "s")), ["r", "s"], [1, 2, 3]),
    ],
)
def test_an_answer_is_put_together(answer, references, value):
    assert list(references_of(answer)) == references
    assert joined(answer, {"r": [1, 2], "s": [3]}) == value


def test_a_teacher_in_the_rank_has_no_reference():
    assert list(references_of(None)) == []


def test_all_processes_of_a_handle_are_known():
    assert processes(Replicas(["a", "b"])) == ("a", "b")
    assert processes("a") == ("a",)
