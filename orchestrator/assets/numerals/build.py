"""Build the numerals folder: sums, a teacher that reads digits, a student that reads numerals.

Both have learned sums by cross-entropy: the teacher long enough to be right, the student long
enough to write numerals as single tokens.
"""

from pathlib import Path

from orchestrator.assets.numerals.text import write_sums
from orchestrator.assets.numerals.tokenizers import Cutting, sums_tokenizer
from orchestrator.assets.toy.models import random_llama, train_briefly

STEPS: dict[Cutting, int] = {"digits": 2500, "numerals": 1500}
NAMES: dict[Cutting, str] = {"digits": "teacher", "numerals": "student"}
BATCH_WINDOWS = 16


def build_numerals(folder: Path, steps: dict[Cutting, int] = STEPS) -> None:
    """Fill ``folder`` with sums, teacher and student; the same bytes every time."""
    texts = [row.text for row in write_sums(folder).train]
    for seed, (cutting, name) in enumerate(NAMES.items()):
        tokenizer = sums_tokenizer(texts, cutting)
        model = random_llama(tokenizer, layers=2, hidden=64, seed=seed)
        train_briefly(
            model, tokenizer, texts, steps=steps[cutting], seed=seed, windows=BATCH_WINDOWS
        )
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
