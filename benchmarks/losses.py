"""Cross-tokenizer losses at real sizes: CPU seconds, memory above the inputs, growth with length.

One thread, logits as hidden states, a student of 32k tokens, a teacher of 48k, W made up of 70 %
exact rows and rows of two to four pieces. Both tokenizers cut mostly the same chunks; every eighth
chunk has two tokens on each side. ``python -m benchmarks.losses``.
"""

import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks.table import show
from losses.alignment.projection import Projection
from losses.alignment.tokens import Tokens
from losses.alignment.vocabulary import Vocabulary
from losses.base import Method, Pair
from losses.document import text_document
from losses.methods import method_class
from losses.prediction import Head, Prediction
from losses.signals import Signal

NUM_STUDENT, NUM_TEACHER = 32_768, 49_152
ROWS, LENGTHS, REPEATS = 256, (128, 256, 512, 1024), 3
MEBIBYTE = 2**20
OPTIONS: dict[str, dict[str, object]] = {
    "p_kl": {},
    "h_kl": {},
    "gold": {},
    "uld": {},
    "p_kl mean": {"chunk": "mean"},
    "h_kl mean": {"chunk": "mean"},
    "gold observed": {"merge": "observed"},
    "gold bayesian": {"merge": "bayesian"},
}
GROWING = ("p_kl", "h_kl", "gold", "uld")
DOCUMENT = text_document("benchmark", "not read")


@dataclass(frozen=True)
class Cost:
    """CPU seconds of both halves and the peak of memory above the inputs, in bytes.

    ``unit`` is the time of a log-softmax and its backward pass over the student's table in the
    same process: what the machine's other work does to the one it does to the other.
    """

    teacher: float
    student: float
    unit: float
    peak: int
    signal: int


def main() -> None:
    """Print the costs of every method, and how they grow with the document."""
    for k in (8192, 64):
        show(f"T = {ROWS}, k = {k}, one thread", [_row(name, k) for name in OPTIONS])
    show("Seconds of the student's half by length, k = 8192", [_growth(name) for name in GROWING])


def _row(name: str, k: int) -> dict[str, object]:
    cost = _measured(name, k, ROWS)
    return {
        "method": name,
        "teacher, s": f"{cost.teacher:.2f}",
        "student, s": f"{cost.student:.2f}",
        "in log-softmaxes": f"{cost.student / cost.unit:.1f}",
        "peak above inputs, MiB": f"{cost.peak / MEBIBYTE:.0f}",
        "signal, B/token": f"{cost.signal / ROWS:.0f}",
    }


def _growth(name: str) -> dict[str, object]:
    seconds = [_measured(name, 8192, length).student for length in LENGTHS]
    cells = {str(n): f"{s:.2f}" for n, s in zip(LENGTHS, seconds, strict=True)}
    return {"method": name} | cells | {"last / first": f"{seconds[-1] / seconds[0]:.1f}"}


def _measured(name: str, k: int, length: int) -> Cost:
    """In a process of its own, whose peak of memory is nobody else's."""
    receive, send = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(
        target=_measure, args=(send.send, name, k, length)
    )
    process.start()
    send.close()
    cost: Cost = receive.recv()
    process.join()
    return cost


def _measure(send: Callable[[Cost], None], name: str, k: int, length: int) -> None:
    torch.set_num_threads(1)
    method: Method = method_class(name.split()[0])(k=k, **OPTIONS[name])
    random = np.random.default_rng(0)
    student_ends, teacher_ends = _ends(length)
    teacher = _side(random, teacher_ends, NUM_TEACHER)
    start = time.process_time()
    signal = method.signal(teacher, DOCUMENT)
    of_teacher = time.process_time() - start
    student = _side(random, student_ends, NUM_STUDENT)
    pair = Pair(student.vocabulary, teacher.vocabulary, projection=_projection(random))
    modules = method.modules(pair)
    few = _side(random, student_ends[:9], NUM_STUDENT)
    method.loss(few, _first_tokens(method, teacher), pair, modules)  # W's columns are made once
    seconds, peaks = [], []
    for _ in range(REPEATS):
        leaf = student.hidden.detach().clone().requires_grad_()
        fresh = _fresh(student, leaf)
        before = reset_peak_memory()
        start = time.process_time()
        method.loss(fresh, signal, pair, modules).total.backward()
        seconds.append(time.process_time() - start)
        peaks.append(peak_memory() - before)
    unit = min(_log_softmax(student.hidden) for _ in range(REPEATS))
    send(Cost(of_teacher, min(seconds), unit, int(np.median(peaks)), signal.num_bytes))


def _log_softmax(logits: torch.Tensor) -> float:
    """CPU seconds forward and backward."""
    leaf = logits.detach().clone().requires_grad_()
    start = time.process_time()
    table = leaf.log_softmax(-1)
    table.backward(table.detach())
    return time.process_time() - start


def _first_tokens(method: Method, teacher: Prediction) -> Signal:
    short = Prediction(
        tokens=Tokens(teacher.tokens.ids[:9], teacher.tokens.byte_ends[:9]),
        hidden=teacher.hidden[:9],
        head=teacher.head,
        vocabulary=teacher.vocabulary,
        scored=teacher.scored[:9],
    )
    return method.signal(short, DOCUMENT)


def _ends(length: int) -> tuple[np.ndarray, np.ndarray]:
    """Every eighth chunk is cut in two, at other places on the two sides."""
    chunk = np.arange(length) * 8 // 9
    inner = np.append(np.diff(chunk) == 0, False)
    ends = 10 * (chunk + 1)
    return np.where(inner, ends - 7, ends), np.where(inner, ends - 4, ends)


def _side(random: np.random.Generator, ends: np.ndarray, size: int) -> Prediction:
    logits = torch.from_numpy(random.standard_normal((len(ends), size), dtype=np.float32))
    return Prediction(
        tokens=Tokens(random.integers(0, size, len(ends)), ends),
        hidden=logits.mul_(3),
        head=Head(nn.Identity(), size),
        vocabulary=Vocabulary((b"a",) * size),
        scored=torch.arange(len(ends)) > 0,
    )


def _fresh(student: Prediction, leaf: torch.Tensor) -> Prediction:
    return Prediction(
        tokens=student.tokens,
        hidden=leaf,
        head=student.head,
        vocabulary=student.vocabulary,
        scored=student.scored,
    )


def _projection(random: np.random.Generator) -> Projection:
    exact = random.random(NUM_STUDENT) < 0.7
    counts = np.where(exact, 1, random.integers(2, 5, NUM_STUDENT))
    offsets = np.concatenate([[0], np.cumsum(counts)])
    owner = np.repeat(np.arange(NUM_STUDENT), counts)
    place = np.arange(len(owner)) - offsets[owner]
    ids = random.integers(0, NUM_TEACHER, len(owner))
    ids[exact[owner]] = random.permutation(NUM_TEACHER)[: exact.sum()]
    weights = 0.1**place
    weights /= np.bincount(owner, weights=weights)[owner]
    return Projection(offsets, ids, weights.astype(np.float32), NUM_TEACHER, exact)


def reset_peak_memory() -> int:
    """Bytes in use now; Linux then counts its peak anew."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _status("VmRSS")


def peak_memory() -> int:
    """Most bytes in use since ``reset_peak_memory``."""
    return _status("VmHWM")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


if __name__ == "__main__":
    main()
