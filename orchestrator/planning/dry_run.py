"""Passes that compute nothing: a model on the meta device, and the bytes that would be alive.

The model's own code runs on tensors without memory, so every architecture, attention and form of
checkpointing is counted as it is, not by a formula for one of them. Weights are not counted.
"""

import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel

LARGE = 2**25
"""From this size on the C library gives memory back at once; smaller pieces stay with the process
(``MALLOC_MMAP_THRESHOLD_`` of ``orchestrator.cluster``)."""


@dataclass(frozen=True)
class Live:
    """Most bytes alive at once.

    ``small`` and ``large`` are those of tensors below and from ``LARGE`` on, each at its own worst
    moment; ``total`` is the worst moment of both together.
    """

    total: int = 0
    small: int = 0
    large: int = 0


@dataclass(frozen=True)
class TrainingPass:
    """What a forward pass keeps for the backward pass, and the most alive in either."""

    saved: int
    peak: Live


class _LiveBytes(TorchDispatchMode):
    """Adds what operations allocate and subtracts what is freed."""

    def __init__(self, known: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._alive = {tensor.untyped_storage()._cdata for tensor in known}
        self._now = {"total": 0, "small": 0, "large": 0}
        self._most = dict(self._now)

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for found in tree_leaves(result):
            if isinstance(found, Tensor):
                self._see(found.untyped_storage())
        return result

    @property
    def now(self) -> int:
        """Bytes alive."""
        return self._now["total"]

    @property
    def most(self) -> Live:
        """The worst moments so far."""
        return Live(**self._most)

    def _see(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._alive:
            return
        self._alive.add(key)
        self._change(size, size)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._alive.discard(key)
        self._change(size, -size)

    def _change(self, size: int, change: int) -> None:
        for kind in ("total", "large" if size >= LARGE else "small"):
            self._now[kind] += change
            self._most[kind] = max(self._most[kind], self._now[kind])


def reading(model: PreTrainedModel, rows: int, columns: int) -> Live:
    """A forward pass without gradients over ``rows`` × ``columns`` tokens, keeping no cache."""
    model.eval()
    with _counted(model) as live, torch.no_grad():
        _hidden(model, rows, columns)
    return live.most


def training(
    model: PreTrainedModel, rows: int, columns: int, *, keep_gradients: bool = True
) -> TrainingPass:
    """A forward and a backward pass down from the final hidden states.

    Args:
        model: without weights.
        rows: of the batch.
        columns: of the batch.
        keep_gradients: the peak counts the gradients of the weights as they come; false where each
            is added to others, or sent away, as soon as it is there.
    """
    model.train()
    hooks = [
        parameter.register_post_accumulate_grad_hook(_forget)
        for parameter in model.parameters()
        if parameter.requires_grad and not keep_gradients
    ]
    with _counted(model) as live:
        hidden = _hidden(model, rows, columns)
        saved = live.now
        hidden.backward(torch.empty_like(hidden))
    for hook in hooks:
        hook.remove()
    for parameter in model.parameters():
        parameter.grad = None
    return TrainingPass(saved, live.most)


def _forget(parameter: Tensor) -> None:
    parameter.grad = None


def _hidden(model: PreTrainedModel, rows: int, columns: int) -> Float[Tensor, "row column hidden"]:
    ids = torch.zeros(rows, columns, dtype=torch.long, device="meta")
    # A mask that is ready: to make one, some architectures look at numbers, which are not there.
    mask = torch.zeros(rows, 1, columns, columns, dtype=model.dtype, device="meta")
    output = model.base_model(input_ids=ids, attention_mask=mask, use_cache=False)
    found: Tensor = output.last_hidden_state
    return found


@contextmanager
def _counted(model: PreTrainedModel) -> Iterator[_LiveBytes]:
    with _attention_in_blocks(), _LiveBytes([*model.parameters(), *model.buffers()]) as live:
        yield live


@contextmanager
def _attention_in_blocks() -> Iterator[None]:
    """Attention as on a CPU or a GPU; on the meta device torch would hold every pair of tokens.

    The function is exchanged: a mode of torch would not reach what a backward pass computes again.
    """
    own = functional.scaled_dot_product_attention
    functional.scaled_dot_product_attention = _fused_attention  # type: ignore[assignment]
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = own


def _fused_attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **options: Any
) -> Tensor:
    """What torch's own function does with its options, but for the choice of the kernel."""
    dropout, causal = options.pop("dropout_p", 0.0), options.pop("is_causal", False)
    if options.pop("enable_gqa", False):
        groups = query.shape[1] // key.shape[1]
        key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    found: Tensor = fused(query, key, value, dropout, causal, attn_mask=attn_mask, **options)[0]
    return found
