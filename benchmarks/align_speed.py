"""Student tokens aligned per core-second, on text of several kinds."""

import time
from pathlib import Path

import numpy as np

from benchmarks.table import show
from losses.alignment.chunks import align
from losses.document import text_document
from orchestrator.assets import resolve
from orchestrator.data import load_documents
from teachers.source import ModelSource
from teachers.tokenizer import Tokenizer

NUM_BYTES = 2_000_000
REPEATS = 5


def main() -> None:
    """Print a row for each kind of text."""
    student, teacher = (
        Tokenizer.load(ModelSource(str(resolve(name))), name)
        for name in ("asset:toy/bytelevel", "asset:toy/sentencepiece")
    )
    rows = []
    for kind, text in texts().items():
        document = text_document(kind, text)
        start = time.process_time()
        ours, theirs = (t.encode([document])[0] for t in (student, teacher))
        encoding = time.process_time() - start
        seconds = []
        for _ in range(REPEATS):
            start = time.process_time()
            align(ours.byte_ends, theirs.byte_ends)
            seconds.append(time.process_time() - start)
        best = min(seconds)
        rows.append(
            {
                "text": kind,
                "student tokens": f"{len(ours):,}",
                "million tokens/core-s": f"{len(ours) / best / 1e6:.1f}",
                "align : encode": f"1 : {encoding / best:.0f}",
            }
        )
    show("Alignment", rows)


def texts() -> dict[str, str]:
    """Prose, code, numerals, repeated text and CJK, each of about the same size."""
    prose = "\n".join(d.content.decode() for d in load_documents(["asset:toy/train.jsonl"]))
    rng = np.random.default_rng(0)
    pieces = {
        "prose": prose,
        "code": Path(__file__).read_text(encoding="utf-8"),
        "numerals": " ".join(map(str, rng.integers(0, 10**6, 4000))),
        "repeated": "na " * 1000,
        "cjk": "".join(map(chr, rng.integers(0x4E00, 0x9FA5, 4000))),
    }
    return {kind: text * (NUM_BYTES // len(text.encode()) + 1) for kind, text in pieces.items()}


if __name__ == "__main__":
    main()
