"""The two toy tokenizers: one byte-level BPE, one SentencePiece-style BPE with byte fallback.

They are small, but built like their large cousins (GPT-2's and Gemma's), so that whatever reads
vocabularies and byte offsets meets the same structure in tests as in earnest.
"""

import json
from collections.abc import Iterable

from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import ByteFallback, Fuse
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.decoders import Replace as ReplaceDecoder
from tokenizers.decoders import Sequence as DecoderSequence
from tokenizers.models import BPE
from tokenizers.normalizers import Replace
from tokenizers.pre_tokenizers import ByteLevel, Metaspace, Split
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

BYTE_LEVEL_VOCABULARY = 512
SENTENCEPIECE_VOCABULARY = 768
END_OF_TEXT = "<|endoftext|>"
SENTENCEPIECE_SPECIALS = ("<pad>", "<eos>", "<bos>", "<unk>")
BYTE_TOKENS = tuple(f"<0x{byte:02X}>" for byte in range(256))


def byte_level_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Train GPT-2's kind of tokenizer: 512 tokens, all 256 bytes among them, one special."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(
        vocab_size=BYTE_LEVEL_VOCABULARY,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        clean_up_tokenization_spaces=False,
    )


def sentencepiece_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Train Gemma's kind of tokenizer: 768 tokens, ``▁`` for a space, byte fallback, leading bos.

    A word keeps the space before it, no space is put before the text, and a character outside the
    vocabulary becomes its UTF-8 bytes ``<0xNN>``.
    """
    tokenizer = _with_byte_fallback(_train_metaspace(texts))
    tokenizer.normalizer = Replace(" ", "▁")
    tokenizer.pre_tokenizer = Split(" ", behavior="merged_with_previous")
    tokenizer.decoder = DecoderSequence([ReplaceDecoder("▁", " "), ByteFallback(), Fuse()])
    tokenizer.add_special_tokens(
        [AddedToken(token, normalized=False, special=True) for token in SENTENCEPIECE_SPECIALS]
    )
    tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A",
        pair="<bos> $A <bos>:1 $B:1",
        special_tokens=[("<bos>", SENTENCEPIECE_SPECIALS.index("<bos>"))],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )


def _train_metaspace(texts: Iterable[str]) -> Tokenizer:
    """Learn merges within words that start with ``▁``; none crosses into the next word."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = Metaspace(prepend_scheme="never")
    trainer = BpeTrainer(
        vocab_size=SENTENCEPIECE_VOCABULARY,
        special_tokens=[*SENTENCEPIECE_SPECIALS, *BYTE_TOKENS],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _with_byte_fallback(trained: Tokenizer) -> Tokenizer:
    """Rebuild the model so that byte tokens are ordinary ones and serve unknown characters.

    The trainer reserves ids only for what it calls special; left so, the text ``<0x41>`` would be
    read as one token.
    """
    model = json.loads(trained.to_str())["model"]
    merges = [(left, right) for left, right in model["merges"]]
    return Tokenizer(
        BPE(model["vocab"], merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
