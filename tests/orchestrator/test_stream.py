"""The stream keeps order and never lets the teachers run further ahead than it may."""

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from losses.document import text_document
from orchestrator.stream import StepBatch, stream


class Recorder:
    """A teacher that answers at once with what it was asked, and keeps a diary."""

    def __init__(self, name: str, diary: list[tuple[str, Any]]) -> None:
        def ask(shard: Any) -> tuple[str, tuple[str, ...]]:
            diary.append((name, [d.name for d in shard]))
            return name, tuple(d.name for d in shard)

        self.signals = SimpleNamespace(remote=ask)


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
    requests = list(stream(iter(batches(count)), teachers, prefetch))
    assert [r.batch.step for r in requests] == list(range(count))
    for request in requests:
        shards = zip(request.batch.shards, request.references, strict=True)
        for shard, references in shards:
            assert references == {name: (name, tuple(d.name for d in shard)) for name in names}


@pytest.mark.parametrize("prefetch", [1, 2, 5])
def test_never_more_than_prefetch_ahead(prefetch):
    diary: list[tuple[str, Any]] = []
    steps = 8
    requests = stream(iter(batches(steps, num_ranks=1)), {"t": Recorder("t", diary)}, prefetch)
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

    requests = stream(source(), {"t": Recorder("t", [])}, prefetch=2)
    next(requests)
    assert read == [0, 1, 2]


def test_every_teacher_is_asked_for_each_shard():
    diary: list[tuple[str, Any]] = []
    teachers = {name: Recorder(name, diary) for name in ("a", "b")}
    list(stream(iter(batches(1)), teachers, prefetch=1))
    shards = [["0.0", "0.2"], ["0.1", "0.3"]]
    assert diary == [(name, shard) for shard in shards for name in ("a", "b")]


def test_no_teachers():
    requests = list(stream(iter(batches(3)), {}, prefetch=2))
    assert [r.references for r in requests] == [({}, {})] * 3


@given(st.integers(1, 4), st.integers(1, 5))
def test_ranks_get_equal_shares_of_all_documents(num_ranks, per_rank):
    documents = [text_document(str(i), "x" * (i + 1)) for i in range(num_ranks * per_rank)]
    batch = StepBatch.of(3, documents, num_ranks)
    assert {len(shard) for shard in batch.shards} == {per_rank}
    assert sorted(d.name for s in batch.shards for d in s) == sorted(d.name for d in documents)
    assert batch.num_scored_bytes == sum(range(1, len(documents) + 1))
