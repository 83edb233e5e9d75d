"""The exact bytes of every id of a fast tokenizer, and what its added tokens do.

The family is decided by the tokenizer's decoder, never guessed from its tokens.
"""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as FastTokenizer
from tokenizers.models import BPE, Unigram

from losses.alignment.vocabulary import METASPACE, Family, Vocabulary, bytes_of_piece
from teachers.normalisation import parts_of
from teachers.text_tokens import AddedTokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def read_vocabulary(fast: "PreTrainedTokenizerFast", name: str, closing: str = "") -> Vocabulary:
    """The bytes, kinds and roles of all ids.

    Args:
        fast: the loaded tokenizer.
        name: used in error messages.
        closing: what its chat template writes behind an answer, see ``ChatTemplate.closing``; the
            first special token in it ends a turn.

    Raises:
        ValueError: the tokenizer's family loses bytes or is not known.
    """
    backend: FastTokenizer = fast.backend_tokenizer
    family = family_of(backend, name)
    added = backend.get_added_tokens_decoder()
    pieces = backend.get_vocab(with_added_tokens=True)
    unknown = _unknown_ids(backend)
    special = {i for i, token in added.items() if token.special} | unknown
    token_bytes: list[bytes | None] = [None] * (max(pieces.values()) + 1)
    for piece, index in pieces.items():
        if index in special:
            continue
        token_bytes[index] = (
            _added_bytes(added[index], family) if index in added else bytes_of_piece(piece, family)
        )
    roles = dict.fromkeys(sorted(special), "other") | dict.fromkeys(unknown, "unknown")
    text = frozenset(added.keys() - special)
    named = _named_roles(fast, roles) | _end_of_turn(backend, closing, roles)
    return Vocabulary(tuple(token_bytes), roles | named, text)


def family_of(backend: FastTokenizer, name: str) -> Family:
    """How the tokenizer writes bytes into its vocabulary strings.

    Raises:
        ValueError: no supported family.
    """
    model = type(backend.model).__name__
    if isinstance(backend.model, (BPE, Unigram)):
        parts = parts_of(backend.decoder)
        kinds = {part["type"] for part in parts}
        if "ByteLevel" in kinds:
            return Family.BYTE_LEVEL
        if "ByteFallback" in kinds:
            return Family.SENTENCEPIECE
        if "Metaspace" in kinds or any(_writes_spaces(part) for part in parts):
            return Family.METASPACE
        model = f"{model} tokenizer with the decoder {sorted(kinds) or None}"
    else:
        model = f"{model} tokenizer"
    raise ValueError(
        f"{name}: a {model} loses bytes of the text (which spaces, case or characters there were "
        "cannot be told from its tokens); supported are byte-level BPE, tiktoken, and SentencePiece"
    )


def added_tokens(backend: FastTokenizer) -> AddedTokens:
    """The tokens that cut a text into segments."""
    added = backend.get_added_tokens_decoder()
    swallows = {i: (t.lstrip, t.rstrip) for i, t in added.items() if t.lstrip or t.rstrip}
    return AddedTokens(frozenset(added), swallows)


def literal_bytes(backend: FastTokenizer, vocabulary: Vocabulary) -> list[bytes | None]:
    """Bytes of every id where a text's literal special strings are read as special tokens."""
    contents = list(vocabulary.token_bytes)
    for index, token in backend.get_added_tokens_decoder().items():
        if contents[index] is None:
            contents[index] = token.content.encode()
    return contents


def _writes_spaces(part: Mapping[str, Any]) -> bool:
    return part["type"] == "Replace" and bool(part["pattern"] == {"String": METASPACE})


def _unknown_ids(backend: FastTokenizer) -> set[int]:
    """The id that the tokenizer's model gives to what it cannot read; it is never text."""
    model = backend.model
    if isinstance(model, Unigram):
        unk_id = json.loads(model.__getstate__())["unk_id"]
        return set() if unk_id is None else {int(unk_id)}
    index = None if model.unk_token is None else backend.token_to_id(model.unk_token)
    return set() if index is None else {index}


def _added_bytes(token: AddedToken, family: Family) -> bytes:
    """Added tokens are stored as text, those of SentencePiece with ``▁`` for a space."""
    content: str = token.content
    return (content if family is Family.BYTE_LEVEL else content.replace(METASPACE, " ")).encode()


def _named_roles(fast: "PreTrainedTokenizerFast", special: Mapping[int, str]) -> dict[int, str]:
    named = {
        "unknown": fast.unk_token_id,
        "pad": fast.pad_token_id,
        "start": fast.bos_token_id,
        "end": fast.eos_token_id,
    }
    return {index: role for role, index in named.items() if index in special}


def _end_of_turn(
    backend: FastTokenizer, closing: str, special: Mapping[int, str]
) -> dict[int, str]:
    """The token that closes an assistant's turn; it has no other role, also where it is the end.

    A list of ids at which generation stops is not asked: which of them closes a turn is up to the
    template.
    """
    backend.encode_special_tokens = False
    backend.no_truncation()
    backend.no_padding()
    ids = backend.encode(closing, add_special_tokens=False).ids
    first = next((index for index in ids if index in special), None)
    return {} if first is None else {first: "end_of_turn"}
