"""Out of memory: half of the tokens, the same answers; a document that does not fit is named."""

from typing import Any

import numpy as np
import pytest
import torch

from losses.methods.alm import Alm
from teachers.teacher import Teacher
from teachers.token_budget import TokenBudget, is_out_of_memory

CUDA = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
CPU = RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory")


class Memory:
    """Lets a model read only so many tokens at once."""

    def __init__(self, module: torch.nn.Module, limit: int, error: Exception) -> None:
        self.limit, self.error = limit, error
        self.sizes: list[int] = []
        module.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, module: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        size = kwargs["input_ids"].numel()
        self.sizes.append(size)
        if size > self.limit:
            raise self.error


@pytest.mark.parametrize("error", [CUDA, CPU, MemoryError()])
def test_halved_retried_remembered(language_model, documents, error, caplog):
    expected = Teacher(language_model(), [Alm()]).signals(documents)
    model = language_model()
    memory = Memory(model.model.base_model, 160, error)
    teacher = Teacher(model, [Alm()])
    found = teacher.signals(documents)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours[0].logprob, theirs[0].logprob, atol=1e-5)
    failed = [size for size in memory.sizes if size > 160]
    assert failed
    assert teacher.budget.tokens < 2 * 160
    assert caplog.text.count("out of memory on") == len(failed)
    assert f"token_budget is {teacher.budget.tokens} from now on" in caplog.text
    del memory.sizes[:]
    again = teacher.signals(documents)
    assert max(memory.sizes) <= 160  # remembered
    assert [row[0].num_bytes for row in again] == [row[0].num_bytes for row in found]


def test_evaluation_too(language_model, documents):
    expected = Teacher(language_model(), []).evaluate(documents)
    model = language_model()
    memory = Memory(model.model.base_model, 160, CUDA)
    found = Teacher(model, []).evaluate(documents)
    assert max(memory.sizes) > 160
    assert [row.nats for row in found] == pytest.approx([row.nats for row in expected], rel=1e-5)


def test_one_document_that_does_not_fit_is_named(language_model, documents):
    model = language_model()
    longest = max(documents, key=lambda document: len(document.content))
    Memory(model.model.base_model, 20, CPU)
    with pytest.raises(MemoryError, match=rf"document {longest.name} alone.*data.max_length"):
        Teacher(model, [Alm()]).signals(documents)


def test_enough_memory_reads_what_it_always_read(language_model, documents):
    model = language_model()
    memory = Memory(model.model.base_model, 10**9, CUDA)
    budget = TokenBudget(100)
    rows = budget.over(model, documents, model.predictions)
    lengths = [len(tokens) for tokens in model.encode(documents)]
    batches = model.batches(lengths, 100)
    assert memory.sizes == [len(b) * max(lengths[i] for i in b) for b in batches]
    assert [len(row.tokens) for row in rows] == lengths
    assert budget.tokens == 100


def test_other_errors_pass(language_model, documents):
    model = language_model()
    Memory(model.model.base_model, 0, RuntimeError("a shape is wrong"))
    with pytest.raises(RuntimeError, match="a shape is wrong"):
        Teacher(model, [Alm()]).signals(documents)
    assert not is_out_of_memory(ValueError("no"))
