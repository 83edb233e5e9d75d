"""Alignment of short documents: five kinds of text, six pairs of real tokenizers, one thread.

    python -m benchmarks.alignment

Seconds are those of the processor, the least of all rounds (a busy neighbour on the machine only
adds to them), with the allocator set as a run sets it for its workers; the library's cache of words
is emptied before each round of encoding. A pair whose tokenizers were not fetched (``tutelage
assets tokenizers``) is left out, and said so.
"""

import os
import pydoc_data.topics
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Int

from benchmarks.table import show
from losses.alignment.chunks import align_batch
from losses.alignment.tokens import Tokens
from losses.document import Document, text_document
from orchestrator.assets import resolve
from orchestrator.cluster import WORKER_VARIABLES
from teachers.source import ModelSource
from teachers.tokenizer import Tokenizer

PAIRS = (
    ("smollm2-135m-instruct", "gemma-3-270m"),
    ("smollm2-135m-instruct", "tokenizers/qwen-3"),
    ("tokenizers/llama-3", "tokenizers/llama-2"),
    ("tokenizers/qwen-3", "tokenizers/llama-3"),
    ("tokenizers/gpt-2", "tokenizers/mistral-v1"),
    ("tokenizers/gemma-3", "tokenizers/gpt-2"),
)
"""Student and teacher: byte-level and SentencePiece vocabularies of 32 to 262 thousand ids."""
NUM_DOCUMENTS, DOCUMENT_BYTES = 256, 600
ALIGN_ROUNDS, ENCODE_ROUNDS = 31, 7
SENTENCES = (
    "今天的天气很好、我们去公园散步。",
    "两个模型读同一段文字、却把它切成不同的词。",
    "老师的分布告诉学生、每一个词有多大的可能。",
    "火车早上九点从上海出发、中午到达南京。",
    "図書館で本を三冊借りて、夕方まで読みました。",
    "新しい駅の前に、小さな喫茶店ができた。",
    "서울의 겨울은 춥지만 하늘이 맑다.",
)


@dataclass(frozen=True)
class Encoded:
    """One tokenizer on one kind of text: its tokens, and the seconds of encoding all of it."""

    tokens: Sequence[Tokens]
    bare_seconds: float
    seconds: float


def main() -> None:
    """Print a row for each pair and kind of text, from a process set up like a worker."""
    if os.environ.keys() >= WORKER_VARIABLES.keys():
        compare()
    else:  # glibc reads its settings when a process starts
        command = [sys.executable, "-m", "benchmarks.alignment"]
        subprocess.run(command, env=os.environ | WORKER_VARIABLES, check=True)


def compare() -> None:
    """Print the table; the process has the settings that a run gives its workers."""
    kinds = {kind: documents(text) for kind, text in texts().items()}
    encoded: dict[str, dict[str, Encoded]] = {}
    rows = []
    for pair in PAIRS:
        try:
            for name in set(pair) - encoded.keys():
                encoded[name] = encode(name, kinds)
        except FileNotFoundError as error:
            print(f"{' <- '.join(pair)} left out: {error}")
            continue
        rows += [row(pair, kind, *(encoded[name][kind] for name in pair)) for kind in kinds]
    if rows:
        show("Alignment", rows)


def encode(name: str, kinds: dict[str, list[Document]]) -> dict[str, Encoded]:
    """Encode every kind of text, by the library alone and by ours, in turns."""
    tokenizer = Tokenizer.load(ModelSource(str(resolve(f"asset:{name}"))), name)
    found = {}
    for kind, its_documents in kinds.items():
        contents = [document.content.decode() for document in its_documents]
        tokens = tokenizer.encode(its_documents)
        bare, ours = [], []
        for _ in range(ENCODE_ROUNDS):
            bare.append(cold_seconds(tokenizer, partial(bare_encoding, tokenizer, contents)))
            ours.append(cold_seconds(tokenizer, partial(tokenizer.encode, its_documents)))
        found[kind] = Encoded(tokens, min(bare), min(ours))
    return found


def bare_encoding(tokenizer: Tokenizer, contents: list[str]) -> None:
    """The library's fastest call, without reading any result."""
    tokenizer.backend.encode_batch_fast(contents, add_special_tokens=False)


def row(pair: tuple[str, str], kind: str, student: Encoded, teacher: Encoded) -> dict[str, object]:
    """Time the alignment of all documents in one call."""
    ours: list[Int[np.ndarray, "_"]] = [tokens.byte_ends for tokens in student.tokens]
    # signals carry a teacher's ends as 32-bit numbers
    theirs: list[Int[np.ndarray, "_"]] = [t.byte_ends.astype(np.int32) for t in teacher.tokens]
    align_batch(ours, theirs)
    aligning = min(seconds(lambda: align_batch(ours, theirs)) for _ in range(ALIGN_ROUNDS))
    num_tokens = sum(map(len, ours))
    whole = student.seconds + teacher.seconds + aligning
    return {
        "student <- teacher": " <- ".join(name.rpartition("/")[2] for name in pair),
        "text": kind,
        "tokens a document": round(num_tokens / NUM_DOCUMENTS),
        "teacher's": round(sum(map(len, theirs)) / NUM_DOCUMENTS),
        "million tokens/core-s": f"{num_tokens / aligning / 1e6:.1f}",
        "of the encode speed": f"{(student.bare_seconds + teacher.bare_seconds) / whole:.0%}",
    }


def cold_seconds(tokenizer: Tokenizer, work: Callable[[], object]) -> float:
    """The same without what the library remembers: a run reads a document once, not seven times."""
    tokenizer.backend.model._clear_cache()
    return seconds(work)


def seconds(work: Callable[[], object]) -> float:
    """Seconds of the processor that one call takes."""
    start = time.process_time()
    work()
    return time.process_time() - start


def texts() -> dict[str, str]:
    """Prose and code that Python comes with; numerals, repeated text and CJK made here."""
    rng = np.random.default_rng(0)
    return {
        "prose": "\n".join(pydoc_data.topics.topics.values()),
        "code": Path(textwrap.__file__).read_text(encoding="utf-8"),
        "numerals": " ".join(map(str, rng.integers(0, 10**6, 40_000))),
        "repeated": "na " * 1000,
        "cjk": "".join(rng.choice(SENTENCES, 4000)),
    }


def documents(text: str) -> list[Document]:
    """Many documents of the same number of bytes, but for the rest of a cut character."""
    return [text_document(str(index), part) for index, part in enumerate(parts(text))]


def parts(text: str) -> Iterator[str]:
    """Consecutive parts; from the beginning again where the text is too short."""
    whole = text.encode()
    whole *= NUM_DOCUMENTS * DOCUMENT_BYTES // len(whole) + 1
    for index in range(NUM_DOCUMENTS):
        start = index * DOCUMENT_BYTES
        yield whole[start : start + DOCUMENT_BYTES].decode(errors="ignore")


if __name__ == "__main__":
    main()
