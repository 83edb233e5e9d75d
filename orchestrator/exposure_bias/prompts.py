"""Prompts: where documents begin."""

from collections.abc import Sequence

import numpy as np

from losses.document import Document, text_document
from orchestrator.errors import ConfigError
from teachers.tokenizer import Tokenizer

SPACES = b" \n\t"


def choose_prompts(
    documents: Sequence[Document],
    tokenizers: Sequence[Tokenizer],
    num_prompts: int,
    num_bytes: int,
    seed: int,
) -> list[str]:
    """As many prompts as asked for, or as there are, from a shuffle of the documents.

    A row with a prompt of its own gives that; a chat gives none.

    Args:
        documents: as loaded.
        tokenizers: a prompt that one of them does not read exactly is left out.
        num_prompts: at most.
        num_bytes: length of the beginning of a plain text, at most.
        seed: of the shuffle.

    Raises:
        ConfigError: fewer than two documents give a prompt.
    """
    order = np.random.default_rng(seed).permutation(len(documents))
    found: list[str] = []
    for index in order:
        prompt = _prompt(documents[index], num_bytes)
        if prompt is not None and _is_read(prompt, tokenizers):
            found.append(prompt.decode())
        if len(found) == num_prompts:
            break
    if len(found) < 2:
        raise ConfigError(
            f"{len(found)} of {len(documents)} documents give a prompt; expected two at least, of "
            f"plain text longer than {num_bytes} bytes or with a prompt"
        )
    return found


def _prompt(document: Document, num_bytes: int) -> bytes | None:
    if document.is_chat:
        return None
    first = document.segments[0]
    if len(document.segments) > 1 and not first.scored:
        return first.content or None
    return beginning(document.content, num_bytes)


def beginning(content: bytes, num_bytes: int) -> bytes | None:
    """Whole words of the first bytes, without the space behind; None of a shorter text.

    Without any space in it, whole characters.

    >>> beginning(b"The quick brown fox", 12), beginning(b"The quick", 9), beginning(b"Hi", 9)
    (b'The quick', None, None)
    >>> beginning("東京に行く".encode(), 7).decode()
    '東京'
    """
    if len(content) <= num_bytes:
        return None
    for end in range(num_bytes, 0, -1):
        if content[end] in SPACES and content[end - 1] not in SPACES:
            return content[:end]
    return content[:num_bytes].decode(errors="ignore").encode() or None


def _is_read(prompt: bytes, tokenizers: Sequence[Tokenizer]) -> bool:
    document = text_document("prompt", prompt.decode())
    return all(tokenizer.is_faithful(document) for tokenizer in tokenizers)
