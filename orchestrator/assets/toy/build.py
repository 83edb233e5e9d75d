"""Build the toy folder: text, two teachers with different tokenizers, and a student.

The student shares the vocabulary of ``bytelevel`` (so ``kl`` works between them) and not that of
``sentencepiece`` (so a cross-tokenizer method is needed there).
"""

from pathlib import Path

from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from orchestrator.assets.toy.models import random_llama, train_briefly
from orchestrator.assets.toy.text import write_toy_text
from orchestrator.assets.toy.tokenizers import byte_level_tokenizer, sentencepiece_tokenizer

TEACHER_STEPS = 200


def build_toy(folder: Path, *, teacher_steps: int = TEACHER_STEPS) -> None:
    """Fill ``folder`` with the toy text, teachers and student; the same bytes every time."""
    texts = [row.text for row in write_toy_text(folder).train]
    byte_level = byte_level_tokenizer(texts)
    sentencepiece = sentencepiece_tokenizer(texts)
    for seed, (name, tokenizer) in enumerate(
        {"bytelevel": byte_level, "sentencepiece": sentencepiece}.items()
    ):
        teacher = random_llama(tokenizer, layers=2, hidden=96, seed=seed)
        train_briefly(teacher, tokenizer, texts, steps=teacher_steps, seed=seed)
        _save(teacher, tokenizer, folder / name)
    student = random_llama(byte_level, layers=2, hidden=64, seed=2)
    _save(student, byte_level, folder / "student")


def _save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
