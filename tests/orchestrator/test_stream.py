"""The stream keeps order and never lets the teachers run further ahead than it may."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from losses.document import text_document
from orchestrator.ahead import Ahead
from orchestrator.renewal import Renewal
from orchestrator.stream import StepBatch, stream


class Recorder:
    """A teacher that answers at once with what it was asked, and keeps a diary."""

    def __init__(self, name: str, diary: list[tuple[str, Any]]) -> None:
        def ask(shard: Any) -> tuple[str, tuple[str, ...]]:
            diary.append((name, [d.name for d in shard]))
            return name, tuple(d.name for d in shard)

        self.signals = SimpleNamespace(remote=ask)
        self.worked = SimpleNamespace(remote=lambda: None)


def batches(count: int, num_ranks: int = 2) -> list[StepBatch]:
    """Each step has its own four documents."""
    return [
        StepBatch.of(step, [text_document(f"{step}.{i}", "x") for i in range(4)], num_ranks)
        for step in range(count)
    ]


@given(st.integers(0, 6), st.integers(1, 4), st.integers(1, 3))
def test_order_and_delivery(count, prefetch, num_teachers):
    names = [f"t{i}" for i in range(num_teachers)]
    teachers = {name: Recorder(name, []) for name in names}
    requests = list(stream(iter(batches(count)), teachers, Ahead(prefetch)))
    assert [r.batch.step for r in requests] == list(range(count))
    for request in requests:
        shards = zip(request.batch.shards, request.references, strict=True)
        for shard, references in shards:
            assert references == {name: (name, tuple(d.name for d in shard)) for name in names}


@pytest.mark.parametrize("prefetch", [1, 2, 5])
def test_never_more_than_prefetch_ahead(prefetch):
    diary: list[tuple[str, Any]] = []
    steps = 8
    teachers = {"t": Recorder("t", diary)}
    requests = stream(iter(batches(steps, num_ranks=1)), teachers, Ahead(prefetch))
    assert diary == []  # nothing is asked before the first request is wanted
    for request in requests:
        step = request.batch.step
        assert len(diary) == min(step + 1 + prefetch, steps)
        assert diary[step][1] == [f"{step}.{i}" for i in range(4)]
    assert len(diary) == steps


def test_data_is_read_no_further_than_asked():
    read: list[int] = []

    def source():
        for batch in batches(10):
            read.append(batch.step)
            yield batch

    requests = stream(source(), {"t": Recorder("t", [])}, Ahead(2))
    next(requests)
    assert read == [0, 1, 2]


def test_every_teacher_is_asked_for_each_shard():
    diary: list[tuple[str, Any]] = []
    teachers = {name: Recorder(name, diary) for name in ("a", "b")}
    list(stream(iter(batches(1)), teachers, Ahead(1)))
    shards = [["0.0", "0.2"], ["0.1", "0.3"]]
    assert diary == [(name, shard) for name in ("a", "b") for shard in shards]


def test_no_teachers():
    requests = list(stream(iter(batches(3)), {}, Ahead(2)))
    assert [r.references for r in requests] == [({}, {})] * 3


@given(st.integers(1, 4), st.integers(1, 5))
def test_ranks_get_equal_shares_of_all_documents(num_ranks, per_rank):
    documents = [text_document(str(i), "x" * (i + 1)) for i in range(num_ranks * per_rank)]
    batch = StepBatch.of(3, documents, num_ranks)
    assert {len(shard) for shard in batch.shards} == {per_rank}
    assert sorted(d.name for s in batch.shards for d in s) == sorted(d.name for d in documents)
    assert batch.num_scored_bytes == sum(range(1, len(documents) + 1))


class Store:
    """Sizes of signals as they become known: step ``s`` is there once the student asks for it."""

    def __init__(self, sizes: list[int]) -> None:
        self.sizes, self.finished = sizes, -1

    def known(self, references):
        steps = [int(names[0].split(".")[0]) for _, names in references]
        return [self.sizes[step] if step <= self.finished else None for step in steps]


def furthest(sizes: list[int], ahead: Ahead, store: Store, finished_ahead: int = 0) -> list[int]:
    """Steps asked for beyond the one handed out, for each step handed out."""
    diary: list[tuple[str, Any]] = []
    teachers = {"t": Recorder("t", diary)}
    found = []
    for request in stream(iter(batches(len(sizes), num_ranks=1)), teachers, ahead):
        found.append(len(diary) - 1 - request.batch.step)
        store.finished = request.batch.step + finished_ahead
    return found


def test_bytes_bound_what_is_asked_ahead():
    sizes = [100] * 8
    store = Store(sizes)
    ahead = furthest(sizes, Ahead(4, max_bytes=250, sizes=store.known), store)
    # Nothing is known of the first; then two steps of 100 bytes fit into 250, and never three.
    assert ahead == [0, 2, 2, 2, 2, 2, 1, 0]


def test_steps_still_bound_what_bytes_allow():
    sizes = [1] * 6
    store = Store(sizes)
    ahead = furthest(sizes, Ahead(2, max_bytes=10**9, sizes=store.known), store)
    assert ahead == [0, 2, 2, 2, 1, 0]


def test_a_step_larger_than_the_bound_is_asked_alone():
    sizes = [100] * 4
    store = Store(sizes)
    assert furthest(sizes, Ahead(4, max_bytes=50, sizes=store.known), store) == [0, 0, 0, 0]


def test_sizes_that_are_there_count_as_they_are():
    sizes = [100, 10, 10, 10, 10, 10, 10, 10]
    store = Store(sizes)
    ahead = furthest(sizes, Ahead(8, max_bytes=120, sizes=store.known), store, finished_ahead=8)
    # Small ones that are there leave room for one more as large as the largest so far.
    assert ahead[1:3] == [3, 3]


def test_in_turns_each_teacher_answers_a_window_before_the_next_one():
    diary: list[tuple[str, Any]] = []
    teachers = {name: Recorder(name, diary) for name in ("a", "b")}
    order: list[Any] = []
    for request in stream(iter(batches(5, num_ranks=1)), teachers, Ahead(2, in_turns=True)):
        order += [(name, int(shard[0].split(".")[0])) for name, shard in diary]
        diary.clear()
        order.append(("student", request.batch.step))
    steps = [(0, 1), (2, 3), (4,)]
    turns = ("a", "b", "student")
    assert order == [(who, step) for window in steps for who in turns for step in window]


def test_a_window_ends_where_a_teacher_is_renewed():
    diary: list[tuple[str, Any]] = []
    renewals: list[int] = []

    class Noted(Renewal):
        def renew(self, step):
            renewals.append(step)

    renewal = Noted("t", None, {}, 3, Path(), torch.float32, 1.0, print)
    teachers = {"t": Recorder("t", diary)}
    asked, ahead = [], Ahead(2, in_turns=True)
    for request in stream(iter(batches(6, num_ranks=1)), teachers, ahead, renewal):
        asked.append((request.batch.step, len(diary), list(renewals)))
    assert asked == [(0, 2, []), (1, 2, []), (2, 3, []), (3, 5, [3]), (4, 5, [3]), (5, 6, [3])]
