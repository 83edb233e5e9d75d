"""A Hugging Face fast tokenizer as exact bytes: text to ids with byte ends, ids to bytes.

Byte ends come from the vocabulary's own bytes, not from character offsets, and every document is
checked: the joined bytes of its tokens must be the document's bytes.
"""

from collections.abc import Sequence

import numpy as np
from tokenizers import Tokenizer as FastTokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from losses.alignment.tokens import Tokens
from losses.alignment.vocabulary import Family, Vocabulary, bytes_of_piece
from losses.document import Document
from teachers.source import ModelSource

DOCUMENT_SEPARATOR = "<|endoftext|>"
PROBE = "Hello, world!\n\tif x == 10:  # naïve café 東京 🙂 Привет\r\n"


class UnfaithfulTokenizer(ValueError):
    """A document's tokens do not join to the document's bytes."""


class Tokenizer:
    """Documents to ``Tokens``, each beginning with the model's start token if it has one.

    Args:
        fast: the loaded tokenizer.
        name: used in error messages.
        start_token: overrides the start token; None takes what the tokenizer itself puts first,
            else ``<|endoftext|>`` if it is a special token, else its ``bos_token``, else nothing
            (then no model can score a document's first token).

    Raises:
        ValueError: the family is unknown, or the probe text does not come back byte for byte.
    """

    def __init__(
        self, fast: PreTrainedTokenizerFast, name: str, start_token: str | None = None
    ) -> None:
        self.fast = fast
        self.name = name
        self.backend: FastTokenizer = fast.backend_tokenizer
        self.vocabulary = read_vocabulary(fast, name)
        widths = (len(content or b"") for content in self.vocabulary.token_bytes)
        self._widths = np.fromiter(widths, dtype=np.int64)
        self.start_id = self._find_start(start_token)
        self._self_test()

    @classmethod
    def load(cls, source: ModelSource, name: str, start_token: str | None = None) -> "Tokenizer":
        """Load from a folder or a hub id."""
        fast = AutoTokenizer.from_pretrained(
            source.path, revision=source.revision, trust_remote_code=source.trust_remote_code
        )
        if not isinstance(fast, PreTrainedTokenizerFast):
            raise ValueError(
                f"{name}: {source.path} has no fast tokenizer (tokenizer.json is missing)"
            )
        return cls(fast, name, start_token)

    def encode(self, documents: Sequence[Document]) -> list[Tokens]:
        """Each document's tokens.

        Raises:
            UnfaithfulTokenizer: a document's tokens do not join to its bytes.
        """
        texts = [document.content.decode() for document in documents]
        rows = zip(documents, self._content_ids(texts), strict=True)
        return [self._tokens(document, ids) for document, ids in rows]

    def is_faithful(self, document: Document) -> bool:
        """True if the document's tokens join to exactly its bytes."""
        try:
            self.encode([document])
        except UnfaithfulTokenizer:
            return False
        return True

    def _content_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of the texts alone; every call of ``fast`` changes these settings of the backend."""
        self.backend.encode_special_tokens = True  # "<|im_end|>" in a text is text
        self.backend.no_truncation()
        self.backend.no_padding()
        encodings = self.backend.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def _tokens(self, document: Document, token_ids: list[int]) -> Tokens:
        joined = b"".join(self.vocabulary.token_bytes[i] or b"" for i in token_ids)
        if joined != document.content:
            raise UnfaithfulTokenizer(
                f"document {document.name}: the tokens of {self.name} do not join to its bytes "
                f"({_first_difference(joined, document.content)})"
            )
        ids = np.asarray(token_ids, dtype=np.int64)
        ends = np.cumsum(self._widths[ids])
        if self.start_id is not None:
            ids, ends = np.concatenate(([self.start_id], ids)), np.concatenate(([-1], ends))
        return Tokens(ids, ends)

    def _find_start(self, start_token: str | None) -> int | None:
        special = {str(self.fast.convert_ids_to_tokens(i)): i for i in self.vocabulary.roles}
        if start_token is not None:
            if start_token not in special:
                raise ValueError(
                    f'{self.name}: start_token "{start_token}" is not a special token; '
                    f"it has {', '.join(sorted(special)[:20])}"
                )
            return special[start_token]
        own = self.backend.encode("", add_special_tokens=True).ids
        if own and own[0] in self.vocabulary.roles:
            return int(own[0])
        bos = self.fast.bos_token_id
        return special.get(DOCUMENT_SEPARATOR, None if bos is None else int(bos))

    def _self_test(self) -> None:
        [ids] = self._content_ids([PROBE])
        joined = b"".join(self.vocabulary.token_bytes[i] or b"" for i in ids)
        if joined != PROBE.encode():
            raise ValueError(
                f"{self.name}: this tokenizer does not give text back byte for byte "
                f"({_first_difference(joined, PROBE.encode())}); its family is not supported"
            )


def read_vocabulary(fast: PreTrainedTokenizerFast, name: str) -> Vocabulary:
    """The exact bytes of every id of a byte-level or a byte-fallback SentencePiece tokenizer.

    Raises:
        ValueError: the tokenizer belongs to neither family.
    """
    backend: FastTokenizer = fast.backend_tokenizer
    family = _family(backend, name)
    added = backend.get_added_tokens_decoder()
    pieces = backend.get_vocab(with_added_tokens=True)
    token_bytes: list[bytes | None] = [None] * (max(pieces.values()) + 1)
    for piece, index in pieces.items():
        if index not in added:
            token_bytes[index] = bytes_of_piece(piece, family)
        elif not added[index].special:
            token_bytes[index] = _added_bytes(piece, family)
    roles = dict.fromkeys((i for i, b in enumerate(token_bytes) if b is None), "other")
    return Vocabulary(tuple(token_bytes), roles | _named_roles(fast, roles))


def _added_bytes(piece: str, family: Family) -> bytes:
    """Added tokens are stored as text; SentencePiece writes their spaces as metaspaces too."""
    return piece.replace("▁", " ").encode() if family is Family.SENTENCEPIECE else piece.encode()


def _named_roles(fast: PreTrainedTokenizerFast, special: dict[int, str]) -> dict[int, str]:
    named = {
        "unknown": fast.unk_token_id,
        "pad": fast.pad_token_id,
        "start": fast.bos_token_id,
        "end": fast.eos_token_id,
    }
    return {index: role for role, index in named.items() if index in special}


def _family(backend: FastTokenizer, name: str) -> Family:
    decoder = "" if backend.decoder is None else backend.decoder.__getstate__().decode()
    if '"ByteLevel"' in decoder:
        return Family.BYTE_LEVEL
    if '"ByteFallback"' in decoder:
        return Family.SENTENCEPIECE
    raise ValueError(
        f"{name}: a {type(backend.model).__name__} tokenizer without byte-level or byte-fallback "
        "decoding loses bytes; supported are byte-level BPE and SentencePiece with byte fallback"
    )


def _first_difference(ours: bytes, expected: bytes) -> str:
    pairs = zip(ours, expected, strict=False)
    at = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(ours), len(expected)))
    window = slice(max(0, at - 8), at + 8)
    return f"at byte {at}: got {ours[window]!r}, expected {expected[window]!r}"
