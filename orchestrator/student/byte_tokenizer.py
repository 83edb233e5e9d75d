"""Bytes as a tokenizer: a plain ``tokenizer.json`` that ``AutoTokenizer`` opens without any code.

Ids 0 to 255 are the bytes; behind them come the special tokens of the model's own tokenizer that
have a role. Any text is read as bytes, also one that spells a role ("assistant") or the name of a
special token: these names are sealed (``teachers.sealing``), and the chat template writes them so.
"""

from pathlib import Path

from tokenizers import AddedToken
from tokenizers import Tokenizer as FastTokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast

from losses.alignment.vocabulary import Vocabulary, byte_alphabet
from orchestrator.student.kept_specials import KeptSpecials
from orchestrator.student.sealed_template import seal_template
from teachers.sealing import SEAL, sealed, unsealed
from teachers.tokenizer import Tokenizer

NUM_BYTES = 256


def write_byte_tokenizer(source: PreTrainedTokenizerFast, folder: Path) -> Path:
    """Write the byte tokenizer of a model into a folder.

    Args:
        source: the model's own tokenizer.
        folder: must exist.

    Raises:
        ValueError: the tokenizer or its chat template cannot be used.
    """
    byte_tokenizer(Tokenizer(source, source.name_or_path or "init")).save_pretrained(folder)
    return folder


def byte_tokenizer(source: Tokenizer) -> PreTrainedTokenizerFast:
    """The byte tokenizer of a model; its own one, if it is such a one already."""
    if _is_sealed(source):
        return source.fast
    kept = _sealed(KeptSpecials.of(source))
    backend = FastTokenizer(BPE(vocab=byte_alphabet(), merges=[]))
    backend.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = ByteLevelDecoder()
    backend.add_special_tokens(list(kept.tokens))
    ids = {token.content: NUM_BYTES + rank for rank, token in enumerate(kept.tokens)}
    backend.post_processor = kept.processor(ids)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        clean_up_tokenization_spaces=False,
        padding_side=source.fast.padding_side,
        **kept.named,
    )
    if not source.chat.is_plain:
        names = [unsealed(token.content) for token in kept.tokens]
        fast.chat_template = seal_template(source.fast, names, fast)
    return fast


def is_bytes(vocabulary: Vocabulary) -> bool:
    """True if ids 0 to 255 are the bytes and no other id has any.

    >>> is_bytes(Vocabulary((*(bytes([b]) for b in range(256)), None))), is_bytes(Vocabulary(()))
    (True, False)
    """
    table = vocabulary.token_bytes
    ordered = all(table[b] == bytes([b]) for b in range(min(NUM_BYTES, len(table))))
    return len(table) >= NUM_BYTES and ordered and not any(table[NUM_BYTES:])


def _is_sealed(source: Tokenizer) -> bool:
    """True if the tokenizer has been made here."""
    names = (str(source.backend.id_to_token(index)) for index in source.vocabulary.roles)
    return is_bytes(source.vocabulary) and all(name.startswith(SEAL) for name in names)


def _sealed(kept: KeptSpecials) -> KeptSpecials:
    """The same with sealed names."""
    return KeptSpecials(
        tokens=[
            AddedToken(
                sealed(token.content),
                lstrip=token.lstrip,
                rstrip=token.rstrip,
                normalized=False,
                special=True,
            )
            for token in kept.tokens
        ],
        named={key: sealed(name) for key, name in kept.named.items()},
        before=[sealed(name) for name in kept.before],
        after=[sealed(name) for name in kept.after],
    )
