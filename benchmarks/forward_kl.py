"""Forward KL on real sizes: ours against the textbook expression, forward and backward."""

import time
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.table import show
from losses.divergence import forward

NUM_ROWS, VOCABULARY, REPEATS = 160, 49152, 5


def main() -> None:
    """Print both times and their ratio."""
    torch.manual_seed(0)
    teacher = torch.randn(NUM_ROWS, VOCABULARY).log_softmax(-1)
    logits = torch.randn(NUM_ROWS, VOCABULARY)
    naive = _seconds(_naive, logits, teacher)
    ours = _seconds(forward, logits, teacher)
    row = {
        "rows × vocabulary": f"{NUM_ROWS} × {VOCABULARY}",
        "textbook, ms": f"{1e3 * naive:.1f}",
        "ours, ms": f"{1e3 * ours:.1f}",
        "ratio": f"{naive / ours:.2f}",
    }
    show("Forward KL, forward + backward, student's log-softmax included", [row])


def _naive(
    teacher: Float[Tensor, "row vocab"], student: Float[Tensor, "row vocab"]
) -> Float[Tensor, "row"]:
    return (teacher.exp() * (teacher - student)).sum(-1)


def _seconds(
    function: Callable[[Tensor, Tensor], Tensor], logits: Tensor, teacher: Tensor
) -> float:
    best = float("inf")
    for _ in range(REPEATS):
        leaf = logits.clone().requires_grad_()
        start = time.perf_counter()
        function(teacher, leaf.log_softmax(-1)).sum().backward()
        best = min(best, time.perf_counter() - start)
    return best


if __name__ == "__main__":
    main()
