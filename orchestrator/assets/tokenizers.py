"""Write tokenizers of several formats as folders that ``AutoTokenizer`` opens.

Each is written once and loaded again: it must encode the probe texts as the source does.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as FastTokenizer

from orchestrator.assets.special_tokens import NumberedSpecials
from teachers.probe import LINES
from teachers.sentencepiece_files import sentencepiece_tokenizer
from teachers.tiktoken_files import RankFile, byte_level_bpe, read_ranks, read_tekken

KEPT = (
    "bos_token",
    "eos_token",
    "unk_token",
    "pad_token",
    "additional_special_tokens",
    "chat_template",
    "model_max_length",
)
"""What is taken over from a ``tokenizer_config.json``."""


def write_json(sources: Sequence[Path], folder: Path, **named: str) -> None:
    """Write a ``tokenizer.json``, with its ``tokenizer_config.json`` if there is one."""
    config = json.loads(sources[1].read_text(encoding="utf-8")) if len(sources) > 1 else {}
    kept = {key: _plain(config[key]) for key in KEPT if config.get(key)}
    _write(FastTokenizer.from_file(str(sources[0])), folder, kept | named)


def write_gpt2(sources: Sequence[Path], folder: Path) -> None:
    """Write GPT-2's ``encoder.json`` and ``vocab.bpe``."""
    tokenizer = FastTokenizer(models.BPE.from_file(*map(str, sources)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    end = "<|endoftext|>"
    tokenizer.add_special_tokens([AddedToken(end, normalized=False, special=True)])
    _write(tokenizer, folder, {"bos_token": end, "eos_token": end})


def write_tiktoken(
    sources: Sequence[Path],
    folder: Path,
    *,
    pattern: str,
    specials: NumberedSpecials,
    nfc: bool = False,
    **named: str,
) -> None:
    """Write a ``.tiktoken`` file with its pattern and special tokens."""
    ids = read_ranks(sources[0])
    file = RankFile(ids, pattern, specials(len(ids)))
    _write(byte_level_bpe(file, nfc=nfc), folder, named)


def write_tekken(sources: Sequence[Path], folder: Path, **named: str) -> None:
    """Write Mistral's ``tekken.json``."""
    _write(byte_level_bpe(read_tekken(sources[0])), folder, named)


def write_sentencepiece(sources: Sequence[Path], folder: Path, **named: str) -> None:
    """Write a SentencePiece model file."""
    _write(sentencepiece_tokenizer(sources[0]), folder, named)


def _plain(value: Any) -> Any:
    """A special token is written as its string or as an object with all its flags."""
    return value["content"] if isinstance(value, dict) else value


def _write(tokenizer: FastTokenizer, folder: Path, named: Mapping[str, Any]) -> None:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast  # slow import, rarely needed

    tokenizer.no_truncation()
    tokenizer.no_padding()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **named
    )
    fast.save_pretrained(folder)
    reloaded = AutoTokenizer.from_pretrained(folder).backend_tokenizer
    _check_same(tokenizer.encode, reloaded.encode, folder)


def _check_same(written: Callable[[str], Any], read: Callable[[str], Any], folder: Path) -> None:
    for line in LINES:
        if written(line).ids != read(line).ids:
            raise ValueError(
                f"the tokenizer saved to {folder} encodes {line!r} differently after loading: "
                f"expected {written(line).ids}, got {read(line).ids}; check the installed "
                "version of transformers"
            )
