"""What a tokenizer makes of a text in the middle of a document, where it adds nothing in front."""

from collections.abc import Iterator, Sequence

from teachers.normalisation import DummyPrefix
from teachers.tokenizer import Tokenizer

LINE_BREAK = "\n"
BATCH_TEXTS = 1 << 13


def encode_inside(tokenizer: Tokenizer, texts: Sequence[str]) -> Iterator[list[int]]:
    """Ids of each text, special strings read as text; they need not join to the text's bytes.

    A tokenizer that puts a space before every text would read ``ing`` as ``▁ing``. Such a one is
    given a line break first, whose tokens are dropped.
    """
    prefixed = tokenizer.normalisation.prefix is not DummyPrefix.NONE
    for low in range(0, len(texts), BATCH_TEXTS):
        batch = texts[low : low + BATCH_TEXTS]
        if prefixed:
            rows = tokenizer.ids_of([LINE_BREAK + text for text in batch])
            yield from (_after_break(tokenizer, ids) for ids in rows)
        else:
            yield from tokenizer.ids_of(batch)


def _after_break(tokenizer: Tokenizer, ids: list[int]) -> list[int]:
    """The ids behind the break and the artificial space; nothing if no token ends there."""
    joined = b""
    for place, index in enumerate(ids, start=1):
        joined += tokenizer.vocabulary.token_bytes[index] or b""
        if joined.endswith(LINE_BREAK.encode()):
            return ids[place:]
        if joined.strip(b" "):
            break
    return []
