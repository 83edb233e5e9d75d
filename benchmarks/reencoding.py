"""How fast teacher tokens become scores in the student's vocabulary, and what a step costs.

``python -m benchmarks.reencoding``: sedi from Gemma-3-270M's tokenizer to SmolLM2's and back, on
documents of the quick start that no table has seen; then both halves of sedi against those of kl
for one vocabulary. Assets that are not fetched are left out by name. One thread.
"""

import time
from collections.abc import Sequence
from functools import partial
from itertools import islice

import numpy as np
import torch
from torch import nn

from benchmarks.projection import folder_of
from benchmarks.table import show
from losses.alignment.tokens import Tokens
from losses.alignment.vocabulary import Vocabulary
from losses.base import Method, Pair
from losses.document import Document, text_document
from losses.methods.kl import Kl
from losses.methods.sedi import Sedi
from losses.prediction import Head, Prediction
from losses.reencoding.teacher_rows import TopTokensWithEntropy
from orchestrator.data import load_documents
from teachers.inside import encode_inside
from teachers.source import ModelSource
from teachers.tokenizer import Tokenizer

PAIRS = [
    ("asset:smollm2-135m-instruct", "asset:gemma-3-270m"),
    ("asset:gemma-3-270m", "asset:smollm2-135m-instruct"),
]
TEXTS = "asset:prose/train.jsonl"
K, NUM_DOCUMENTS = 100, 64
ROWS, HIDDEN, NUM_IDS, REPEATS = 512, 576, 49_152, 3
DOCUMENT = text_document("benchmark", "not read")


def main() -> None:
    """Print both tables."""
    torch.set_num_threads(1)
    rows = []
    for pair in PAIRS:
        try:
            rows.append(reencoding(*pair))
        except FileNotFoundError as error:
            print(f"left out: {error}")
    if rows:
        show(f"Re-encoding {K} candidates a group (student x teacher)", rows)
    costs = {name: halves(method) for name, method in (("kl", Kl()), ("sedi", Sedi()))}
    show(
        f"Both halves of a loss: {ROWS} tokens, one vocabulary of {NUM_IDS:,}, width {HIDDEN}",
        [_row(name, *cost, sum(costs["kl"])) for name, cost in costs.items()],
    )


def _row(name: str, teacher: float, student: float, of_kl: float) -> dict[str, object]:
    return {
        "method": name,
        "teacher, s": f"{teacher:.2f}",
        "student, s": f"{student:.2f}",
        "both / kl": f"{(teacher + student) / of_kl:.2f}",
    }


def reencoding(student_name: str, teacher_name: str) -> dict[str, object]:
    """CPU seconds of ``Sedi.ahead`` on new documents, and on the same once more."""
    student, teacher = (
        Tokenizer.load(ModelSource(folder_of(name)), name) for name in (student_name, teacher_name)
    )
    encode = partial(encode_inside, student)
    pair = Pair(
        student.vocabulary, teacher.vocabulary, encode_student=lambda texts: list(encode(texts))
    )
    documents = _documents(student, teacher)
    signals = [_signal(*one) for one in zip(documents, teacher.encode(documents), strict=False)]
    start = time.process_time()
    table = len(pair.reencoder.pieces)
    of_table = time.process_time() - start
    encoded = pair.reencoder.num_encoded
    first, count = _ahead(pair, student, documents, signals)
    again, _ = _ahead(pair, student, documents, signals)
    return {
        "pair": f"{student_name} x {teacher_name}".replace("asset:", ""),
        "table, s": f"{of_table:.1f} ({table:,})",
        "candidates": f"{count:,}",
        "encoded": f"{pair.reencoder.num_encoded - encoded:,}",
        "per core-second, new": f"{count / first:,.0f}",
        "again": f"{count / again:,.0f}",
    }


def _ahead(
    pair: Pair,
    student: Tokenizer,
    documents: list[Document],
    signals: list[TopTokensWithEntropy],
) -> tuple[float, int]:
    """Seconds, and candidates: K a group."""
    views = student.encode(documents)
    seconds, count = 0.0, 0
    for document, tokens, signal in zip(documents, views, signals, strict=True):
        scored = tokens.scored(document.scored)
        start = time.process_time()
        labels = Sedi(k=K).ahead(tokens, scored, signal, pair)
        seconds += time.process_time() - start
        count += K * len(np.unique(labels.groups))
    return seconds, count


def _documents(*tokenizers: Tokenizer) -> list[Document]:
    found = load_documents([TEXTS])
    readable = (d for d in found if all(tokenizer.is_faithful(d) for tokenizer in tokenizers))
    return list(islice(readable, NUM_DOCUMENTS))


def _signal(document: Document, tokens: Tokens) -> TopTokensWithEntropy:
    """Candidates drawn from the text's own tokens, as the likely ones are frequent ones too."""
    random = np.random.default_rng(len(tokens))
    scored = tokens.scored(document.scored)
    count = int(scored.sum())
    logprob = np.full(len(tokens), np.nan, dtype=np.float32)
    logprob[scored] = -random.exponential(2.0, count)
    others = -np.sort(random.exponential(3.0, (count, K)), axis=-1).astype(np.float32)
    zeros = np.zeros(count, dtype=np.float32)
    return TopTokensWithEntropy(
        byte_ends=tokens.byte_ends.astype(np.int32),
        logprob=logprob,
        others=others,
        tail=zeros,
        realised=tokens.ids[scored].astype(np.int32),
        ids=random.integers(1000, 30_000, (count, K)).astype(np.int32),
        entropy=zeros,
        level=zeros,
    )


def halves(method: Method) -> tuple[float, float]:
    """CPU seconds of the teacher's and the student's half, the fastest of some runs."""
    vocabulary = Vocabulary(tuple(b"%05d" % index for index in range(NUM_IDS)))
    ids = np.random.default_rng(0).integers(0, NUM_IDS, ROWS)
    tokens = Tokens(ids, 5 * np.arange(ROWS))
    linear = nn.Linear(HIDDEN, NUM_IDS, bias=False)
    head = Head(linear, NUM_IDS)
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(2, ROWS, HIDDEN, generator=generator) * 3
    pair = Pair(vocabulary, vocabulary, teacher_head=head, encode_student=_by_fives)
    modules = method.modules(pair)
    times = [_once(method, tokens, states, pair, modules) for _ in range(REPEATS)]
    return min(teacher for teacher, _ in times), min(student for _, student in times)


def _by_fives(texts: Sequence[str]) -> list[list[int]]:
    return [[int(text[i : i + 5]) for i in range(0, len(text), 5)] for text in texts]


def _once(
    method: Method, tokens: Tokens, states: torch.Tensor, pair: Pair, modules: nn.ModuleDict
) -> tuple[float, float]:
    head = pair.teacher_head
    if head is None:
        raise ValueError("the benchmark gives every pair a head")

    def side(hidden: torch.Tensor) -> Prediction:
        return Prediction(
            tokens=tokens,
            hidden=hidden,
            head=head,
            vocabulary=pair.student,
            scored=torch.arange(ROWS) > 0,
        )

    start = time.process_time()
    with torch.no_grad():
        signal = method.signal(side(states[0]), DOCUMENT)
    middle = time.process_time()
    scored = np.arange(ROWS) > 0
    student = side(states[1].clone().requires_grad_())
    labels = method.ahead(tokens, scored, signal, pair)
    method.loss(student, labels, pair, modules).total.backward()
    return middle - start, time.process_time() - middle


if __name__ == "__main__":
    main()
