"""Convert a GGUF file, once, into an ordinary Hugging Face folder in bfloat16.

``transformers`` reads GGUF, but parses it for up to two minutes; the folder written here loads in
seconds. ``GgufConfig(dequantize=True)`` is needed: without it the weights stay packed and
``save_pretrained`` refuses them.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from tokenizers.pre_tokenizers import ByteLevel, Digits, PreTokenizer, Sequence
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    PreTrainedTokenizerBase,
)

PreTokenizerRepair = Callable[[PreTokenizer], PreTokenizer]


def split_digits(pre_tokenizer: PreTokenizer) -> PreTokenizer:
    """Cut numbers into single digits before the byte-level split, as SmolLM2 was trained.

    The GGUF file only names its pre-tokenizer (``smollm``), and the conversion in ``transformers``
    falls back to GPT-2's plain byte level. Merges rarely cross a digit, so most text encodes the
    same either way, but 46 of the 49152 tokens mix digits with letters: with the original split
    the encoder can never produce them, without it it would, and the model has not seen them there.

    Raises:
        ValueError: If the conversion has begun to do something else, which this must not undo.
    """
    if not isinstance(pre_tokenizer, ByteLevel):
        raise ValueError(
            f"the converted SmolLM2 tokenizer splits with {pre_tokenizer!r}: expected ByteLevel; "
            f"compare it with the model's own tokenizer.json and adapt split_digits"
        )
    return Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])


def convert_gguf(gguf: Path, folder: Path, repair: PreTokenizerRepair | None = None) -> None:
    """Write tokenizer, config and bfloat16 weights of ``gguf`` to ``folder``.

    Raises:
        ValueError: If the written tokenizer, loaded again, encodes a probe text differently.
    """
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    if repair is not None:
        backend = tokenizer.backend_tokenizer
        backend.pre_tokenizer = repair(backend.pre_tokenizer)
    tokenizer.save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    )
    model.save_pretrained(folder)
    _check_reload(tokenizer, folder)


PROBE = "In 2024, 3.14e10 cafés\r\n\tsold naïve 日本語 👩‍👩‍👧 tea1st for $12.50; isn't it?  x  "


def _check_reload(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    reloaded = AutoTokenizer.from_pretrained(folder)
    written, read = tokenizer(PROBE)["input_ids"], reloaded(PROBE)["input_ids"]
    if written != read:
        raise ValueError(
            f"the tokenizer saved to {folder} encodes differently after loading: expected "
            f"{written}, got {read}; check the installed version of transformers"
        )
