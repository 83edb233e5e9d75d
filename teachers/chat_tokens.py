"""Chats to tokens, in bulk; a chat that a tokenizer cannot read exactly comes with its reason."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool

from losses.alignment.tokens import Tokens
from losses.document import Document, chat_document
from teachers.chat import ChatRefused, Rendering
from teachers.chat_layout import Layout
from teachers.faithfulness import UnfaithfulTokenizer
from teachers.text_tokens import TextTokens

if TYPE_CHECKING:
    from teachers.tokenizer import Tokenizer

PROBE = (("user", "Hello there."), ("assistant", "Hello."))


def read_chats(
    tokenizer: "Tokenizer", documents: Sequence[Document]
) -> list[Tokens | UnfaithfulTokenizer]:
    """Each chat's tokens as the tokenizer's template writes it; in the place of a refused one, why.

    The ids are those of ``apply_chat_template``, after a start token if the rendering is plain.
    """
    renderings = [_render(tokenizer, document) for document in documents]
    texts = [found.text for found in renderings if isinstance(found, Rendering)]
    encoded = iter(tokenizer.encode_text(texts, parse_special=True))
    is_special = np.zeros(len(tokenizer.vocabulary), dtype=bool)
    is_special[list(tokenizer.vocabulary.roles)] = True
    found: list[Tokens | UnfaithfulTokenizer] = []
    for document, rendering in zip(documents, renderings, strict=True):
        if isinstance(rendering, Rendering):
            row = next(encoded)
            found.append(
                _refusal(tokenizer, document, row.reason)
                if isinstance(row, UnfaithfulTokenizer)
                else _read(tokenizer, document, rendering, row, is_special[row.ids])
            )
        else:
            found.append(rendering)
    return found


def end_of_turn_id(tokenizer: "Tokenizer") -> int | None:
    """The token with which the template ends an assistant's turn; None if it has no such token."""
    [tokens] = read_chats(tokenizer, [chat_document("probe", PROBE)])
    if isinstance(tokens, UnfaithfulTokenizer):
        return None
    last = int(np.argmax(tokens.byte_ends))
    return None if last in tokens.straddling else int(tokens.ids[last])


def _render(tokenizer: "Tokenizer", document: Document) -> Rendering | UnfaithfulTokenizer:
    try:
        return tokenizer.chat.render(document)
    except ChatRefused as refused:
        return _refusal(tokenizer, document, str(refused))


def _read(
    tokenizer: "Tokenizer",
    document: Document,
    rendering: Rendering,
    found: TextTokens,
    special: Bool[np.ndarray, "token"],
) -> Tokens | UnfaithfulTokenizer:
    layout = Layout.of(document, rendering)
    cover = layout.cover(found)
    if inside := found.ids[special & (cover.sizes > 0)].tolist():
        literal = tokenizer.backend.id_to_token(inside[0])
        return _refusal(tokenizer, document, f"a message holds the special token {literal}")
    if cover.sizes.sum() != layout.sizes.sum():
        reason = "a special token of the chat template takes white space of a message"
        return _refusal(tokenizer, document, reason)
    tokens = layout.tokens(found, cover, special)
    if not tokenizer.chat.is_plain or tokenizer.start_id is None:
        return tokens
    return Tokens(
        ids=np.concatenate(([tokenizer.start_id], tokens.ids)),
        byte_ends=np.concatenate(([-1], tokens.byte_ends)),
        straddling=tokens.straddling + 1,
    )


def _refusal(tokenizer: "Tokenizer", document: Document, reason: str) -> UnfaithfulTokenizer:
    return UnfaithfulTokenizer(
        f"document {document.name}: {tokenizer.name} cannot read this chat: {reason}", reason
    )
