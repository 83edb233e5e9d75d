"""What a tokenizer does to a text before it cuts it: declared changes and the dummy prefix.

Read from the tokenizer's normalizer and pre-tokenizer, never guessed from its tokens.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from tokenizers import Tokenizer as FastTokenizer
from tokenizers.models import BPE

from losses.alignment.vocabulary import METASPACE


class DummyPrefix(StrEnum):
    """When a tokenizer puts a space before a text, and before what follows an added token."""

    NONE = "none"
    ALWAYS = "always"
    IF_MISSING = "if_missing"

    def is_put_before(self, content: bytes) -> bool:
        """True if this text gets a space that is not its own."""
        if self is DummyPrefix.NONE or not content:
            return False
        return self is DummyPrefix.ALWAYS or content[:1] != b" "

    def widths_tried(self, joined: bytes) -> tuple[int, ...]:
        """How many bytes of a segment may be artificial, likeliest first."""
        if self is DummyPrefix.NONE or joined[:1] != b" ":
            return (0,)
        return (1, 0) if self is DummyPrefix.ALWAYS else (0, 1)


@dataclass(frozen=True)
class Normalisation:
    """The changes that a tokenizer makes to a text besides writing spaces as ``▁``.

    Args:
        steps: names of the changes in order, such as ``NFC``; empty if the text stays as it is.
        prefix: when a space is put before the text.
    """

    steps: tuple[str, ...]
    prefix: DummyPrefix
    _apply: Any = None

    @classmethod
    def of(cls, backend: FastTokenizer) -> "Normalisation":
        """Read from a fast tokenizer."""
        parts = parts_of(backend.normalizer)
        declared = [part for part in parts if not _is_bookkeeping(part)]
        prefix = _prefix(parts, parts_of(backend.pre_tokenizer))
        apply = _normalizer(declared) if declared else None
        return cls(tuple(_name(part) for part in declared), prefix, apply)

    def normalised(self, text: str) -> str:
        """The text after the declared changes."""
        return text if self._apply is None else str(self._apply.normalize_str(text))

    def seen(self, text: str) -> bytes:
        """The bytes that the tokens of a text should join to, the dummy prefix included."""
        content = self.normalised(text).encode()
        return b" " + content if self.prefix.is_put_before(content) else content


def parts_of(component: Any) -> list[Mapping[str, Any]]:
    """The steps of a normalizer, pre-tokenizer or decoder as ``tokenizer.json`` has them."""
    return [] if component is None else list(_steps(json.loads(component.__getstate__())))


def _steps(state: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Sequences opened, to any depth."""
    if state["type"] != "Sequence":
        yield state
        return
    for key in ("normalizers", "pretokenizers", "decoders"):
        for step in state.get(key, ()):
            yield from _steps(step)


def _is_bookkeeping(part: Mapping[str, Any]) -> bool:
    """True for the steps that only write the space as ``▁`` and put the dummy prefix."""
    if part["type"] == "Prepend":
        return part["prepend"] in (METASPACE, " ")
    spaces = part.get("pattern") == {"String": " "} and part.get("content") == METASPACE
    return part["type"] == "Replace" and spaces


def _prefix(
    normalizers: list[Mapping[str, Any]], pre_tokenizers: list[Mapping[str, Any]]
) -> DummyPrefix:
    if any(part["type"] == "Prepend" and _is_bookkeeping(part) for part in normalizers):
        return DummyPrefix.ALWAYS
    for part in pre_tokenizers:
        scheme = part.get("prepend_scheme", "never")
        if part.get("add_prefix_space", False) or scheme in ("always", "first"):
            return DummyPrefix.IF_MISSING
    return DummyPrefix.NONE


def _name(part: Mapping[str, Any]) -> str:
    if part["type"] == "Replace":
        return f"Replace {part['pattern']} by {part['content']!r}"
    return str(part["type"])


def _normalizer(parts: list[Mapping[str, Any]]) -> Any:
    """A normalizer of these steps; the library builds parts only as members of a tokenizer."""
    carrier = json.loads(FastTokenizer(BPE()).to_str())
    carrier["normalizer"] = {"type": "Sequence", "normalizers": parts}
    return FastTokenizer.from_str(json.dumps(carrier)).normalizer
