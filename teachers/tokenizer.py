"""A Hugging Face fast tokenizer as exact bytes: texts to ids with byte spans, in bulk.

Byte spans come from the vocabulary's own bytes, not from character offsets, and every text is
checked: the joined bytes of its tokens must be the text.
"""

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import compress
from typing import TYPE_CHECKING

import numpy as np
from tokenizers import Tokenizer as FastTokenizer

from losses.alignment.byte_table import ByteTable
from losses.alignment.tokens import Tokens
from losses.document import Document
from teachers.chat import ChatTemplate, TemplateChoice
from teachers.chat_tokens import read_chats
from teachers.faithfulness import UnfaithfulTokenizer, first_difference, reason_of
from teachers.model_config import explained, names_only_config
from teachers.normalisation import Normalisation
from teachers.probe import check_probe
from teachers.reading import Reading
from teachers.source import ModelSource
from teachers.start_token import find_start
from teachers.text_tokens import Spans, TextTokens
from teachers.vocabulary import added_tokens, family_of, literal_bytes, read_vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ["TextTokens", "Tokenizer", "UnfaithfulTokenizer"]

log = logging.getLogger(__name__)

BATCH_CHARACTERS = 1 << 20


class Tokenizer:
    """Texts to ``TextTokens``; documents to ``Tokens`` after the model's start token, if any.

    Args:
        fast: the loaded tokenizer.
        name: used in error messages.
        start_token: overrides the start token, see ``find_start``; with none no model can score
            a document's first token.
        template: how chats are rendered, see ``ChatTemplate``.

    Raises:
        ValueError: the family is unknown, or probe texts do not come back as declared.
    """

    _source: ModelSource
    max_tokens: int | None = None
    """Longest document that its model reads; None is not known."""
    hidden_size: int | None = None
    """Width of its model's hidden states; None is not known."""

    def __init__(
        self,
        fast: "PreTrainedTokenizerFast",
        name: str,
        start_token: str | None = None,
        template: TemplateChoice | None = None,
    ) -> None:
        self.fast = fast
        self._take(fast.backend_tokenizer, name)
        self.chat = ChatTemplate(self, fast.chat_template, template)
        self.vocabulary = read_vocabulary(fast, name, self.chat.closing)
        self.start_id = find_start(fast, self.vocabulary, name, start_token)
        check_probe(self)

    def _take(self, backend: FastTokenizer, name: str) -> None:
        self.name = name
        self.backend = backend
        self._cut_without_chance()
        self.family = family_of(backend, name)
        self.normalisation = Normalisation.of(backend)

    @classmethod
    def recall(cls, reading: Reading, source: ModelSource, name: str) -> "Tokenizer":
        """One that was read and checked before, from the same files; ``source`` is not opened."""
        tokenizer = cls.__new__(cls)
        tokenizer._source = source
        tokenizer._take(FastTokenizer.from_str(reading.backend), name)
        tokenizer.chat = ChatTemplate(tokenizer, reading.template, source.template)
        tokenizer.chat.flaw = reading.flaw
        tokenizer.vocabulary = reading.vocabulary
        tokenizer.start_id = reading.start_id
        tokenizer.fingerprint = reading.fingerprint
        return tokenizer

    @property
    def reading(self) -> Reading:
        """All that ``recall`` needs."""
        return Reading(
            backend=self._state,
            vocabulary=self.vocabulary,
            start_id=self.start_id,
            template=self.chat.own,
            flaw=self.chat.flaw,
            fingerprint=self.fingerprint,
        )

    @cached_property
    def fast(self) -> "PreTrainedTokenizerFast":
        """The tokenizer as ``transformers`` has it; a recalled one loads it when it is needed."""
        return _load_fast(self._source, self.name)

    @classmethod
    def load(cls, source: ModelSource, name: str, start_token: str | None = None) -> "Tokenizer":
        """Load from a folder or a hub id.

        Raises:
            OSError: a file is missing.
            ValueError: a file is damaged, or there is no tokenizer that can be used exactly.
        """
        return cls(_load_fast(source, name), name, start_token, source.template)

    def _cut_without_chance(self) -> None:
        """Switch off a BPE's dropout, which cuts the same text differently each time."""
        dropout = getattr(self.backend.model, "dropout", None)
        if dropout is not None:
            log.warning("%s: BPE dropout of %g in tokenizer.json is left out", self.name, dropout)
            self.backend.model.dropout = None

    @cached_property
    def cutting(self) -> str:
        """Digest of all that decides how a text is cut into ids.

        That is the vocabulary, merges or scores, added tokens and their flags, and the steps
        before and after. It takes half a second for 250,000 ids and as many merges.
        """
        return hashlib.sha256(self._state.encode()).hexdigest()

    @property
    def _state(self) -> str:
        """The backend as the text of a ``tokenizer.json``, as it is between two texts."""
        self.backend.no_truncation()
        self.backend.no_padding()
        return str(self.backend.to_str())

    @cached_property
    def fingerprint(self) -> str:
        """Digest of all that decides a document's ids: ``cutting``, template and start token."""
        specials = self.fast.special_tokens_map  # a template may write them
        parts = [self.cutting, self.chat.source, specials, self.start_id]
        text = json.dumps(parts, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()

    def encode_text(
        self, texts: Sequence[str], *, parse_special: bool = False, names: Sequence[str] = ()
    ) -> list[TextTokens | UnfaithfulTokenizer]:
        """Each text's tokens with their bytes, without start token.

        Args:
            texts: any number; they are encoded in batches.
            parse_special: read a literal special string such as ``<|im_end|>`` as the special
                token; otherwise it is text.
            names: what to call the texts in errors.

        Returns:
            In the place of a text that the tokenizer does not give back: the error, not raised.
        """
        found: list[TextTokens | UnfaithfulTokenizer] = []
        for batch in _batches(texts):
            contents = [text.encode() for text in batch]
            rows = self.ids_of(batch, parse_special=parse_special)
            located = self.spans_of(rows, contents, parse_special=parse_special)
            for text, row, spans in zip(batch, rows, located, strict=True):
                name = names[len(found)] if names else f"text {len(found)}"
                found.append(self._error(name, text, row) if spans is None else spans)
        return found

    def encode(self, documents: Sequence[Document]) -> list[Tokens]:
        """Each document's tokens.

        Raises:
            UnfaithfulTokenizer: a document's tokens do not join to its bytes.
        """
        found = self.read(documents)
        for tokens in found:
            if isinstance(tokens, UnfaithfulTokenizer):
                raise tokens
        return [tokens for tokens in found if isinstance(tokens, Tokens)]

    def read(self, documents: Sequence[Document]) -> list[Tokens | UnfaithfulTokenizer]:
        """Each document's tokens; in the place of one that cannot be read exactly, the error."""
        are_chats = [document.is_chat for document in documents]
        texts = [d for d, is_chat in zip(documents, are_chats, strict=True) if not is_chat]
        names = [f"document {document.name}" for document in texts]
        encoded = self.encode_text([text.content.decode() for text in texts], names=names)
        rows = map(self._tokens, encoded)
        chats = iter(read_chats(self, list(compress(documents, are_chats))))
        return [next(chats) if is_chat else next(rows) for is_chat in are_chats]

    def is_faithful(self, document: Document) -> bool:
        """True if the document's tokens join to exactly its bytes."""
        return isinstance(self.read([document])[0], Tokens)

    def ids_of(self, texts: Sequence[str], *, parse_special: bool = False) -> list[list[int]]:
        """Ids of the texts alone, unchecked."""
        # Every call of ``fast`` changes these settings of the backend.
        self.backend.encode_special_tokens = not parse_special
        self.backend.no_truncation()
        self.backend.no_padding()
        encodings = self.backend.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def spans_of(
        self,
        rows: Sequence[Sequence[int]],
        contents: Sequence[bytes],
        *,
        parse_special: bool = False,
    ) -> list[TextTokens | None]:
        """Where each text's ids lie in its bytes; None where they do not join to them."""
        spans = self._parsed_spans if parse_special else self._spans
        return spans.locate(rows, contents)

    @cached_property
    def _spans(self) -> Spans:
        """Where special tokens are not read from the text."""
        added = added_tokens(self.backend)
        return Spans(self.vocabulary.byte_table, self.normalisation.prefix, added)

    @cached_property
    def _parsed_spans(self) -> Spans:
        """Where they are."""
        table = ByteTable.of(literal_bytes(self.backend, self.vocabulary))
        return replace(self._spans, table=table)

    def _tokens(self, found: TextTokens | UnfaithfulTokenizer) -> Tokens | UnfaithfulTokenizer:
        if isinstance(found, UnfaithfulTokenizer):
            return found
        num_start = 0 if self.start_id is None else 1
        ids = np.empty(num_start + len(found.ids), dtype=np.int64)
        ends = np.full_like(ids, -1)
        ids[:num_start] = -1 if self.start_id is None else self.start_id
        ids[num_start:] = found.ids
        np.copyto(ends[num_start:], found.ends, where=found.ends > found.starts)
        return Tokens(ids, ends)

    def _error(self, name: str, text: str, ids: Sequence[int]) -> UnfaithfulTokenizer:
        reason = reason_of(text, ids, self.vocabulary, self.normalisation, self.family)
        joined = b"".join(self.vocabulary.token_bytes[index] or b"" for index in ids)
        if self.normalisation.prefix.is_put_before(text.encode()):
            joined = joined.removeprefix(b" ")
        return UnfaithfulTokenizer(
            f"{name}: the tokens of {self.name} do not join to its bytes: {reason.value} "
            f"({first_difference(joined, text.encode())})",
            reason.value,
        )


def _load_fast(source: ModelSource, name: str) -> "PreTrainedTokenizerFast":
    from transformers import AutoTokenizer, PreTrainedTokenizerFast  # slow, and not for a recall

    with explained(source.path):
        fast = AutoTokenizer.from_pretrained(
            source.path,
            config=names_only_config(source.path),
            revision=source.revision,
            trust_remote_code=source.trust_remote_code,
        )
    if not isinstance(fast, PreTrainedTokenizerFast):
        raise ValueError(f"{name}: {source.path} has no fast tokenizer (tokenizer.json is missing)")
    return fast


def _batches(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """Consecutive texts of about a million characters, so that no array grows with the data."""
    low = size = 0
    for high, text in enumerate(texts):
        if size and size + len(text) > BATCH_CHARACTERS:
            yield texts[low:high]
            low, size = high, 0
        size += len(text)
    if texts:
        yield texts[low:]
