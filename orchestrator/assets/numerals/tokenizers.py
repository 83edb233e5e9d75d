"""Two byte-level BPE tokenizers that differ in how they cut numbers.

``digits`` makes each digit a token, as Qwen's and Gemma's do; ``numerals`` joins up to three, as
Llama 3's does. All else is the same.
"""

from collections.abc import Iterable
from typing import Literal

from tokenizers import Regex, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"
VOCABULARY = 1024
"""More than the sums need: every numeral that occurs becomes a token."""

Cutting = Literal["digits", "numerals"]

PATTERNS: dict[Cutting, str] = {
    "digits": r"\d| ?[^\s\d]+|\s",
    "numerals": r"\d{1,3}| ?[^\s\d]+|\s",
}


def sums_tokenizer(texts: Iterable[str], cutting: Cutting) -> PreTrainedTokenizerFast:
    """Train a tokenizer that cuts numbers in this way."""
    tokenizer = Tokenizer(BPE())
    split = Split(Regex(PATTERNS[cutting]), behavior="isolated")
    tokenizer.pre_tokenizer = Sequence([split, ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(
        vocab_size=VOCABULARY,
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
