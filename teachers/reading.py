"""What was found out when a tokenizer was read and checked: enough to use it again.

It is kept as safetensors: the tokenizer's own JSON, the vocabulary's bytes, and all else as JSON.
"""

import json
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64, UInt8
from safetensors.numpy import load, save

from losses.alignment.vocabulary import Vocabulary

NO_BYTES = -1
"""Width of an id that stands for no bytes."""


@dataclass(frozen=True)
class Reading:
    """One tokenizer, with the start token and the chat template that were chosen for it.

    Args:
        backend: the text of a ``tokenizer.json`` that builds it as ``transformers`` had it.
        vocabulary: bytes and roles of its ids.
        start_id: what a model reads before a document's first token.
        template: its own chat template; what JSON can hold, None if there is none.
        flaw: why the chosen template cannot be used.
        fingerprint: see ``Tokenizer.fingerprint``.
    """

    backend: str
    vocabulary: Vocabulary
    start_id: int | None
    template: object
    flaw: str | None
    fingerprint: str

    def to_bytes(self) -> bytes:
        """The content of a safetensors file."""
        contents = self.vocabulary.token_bytes
        widths = [NO_BYTES if content is None else len(content) for content in contents]
        facts = {
            "roles": list(self.vocabulary.roles.items()),
            "added": sorted(self.vocabulary.added),
            "start_id": self.start_id,
            "template": self.template,
            "flaw": self.flaw,
            "fingerprint": self.fingerprint,
        }
        tensors = {
            "backend": _array(self.backend.encode()),
            "content": _array(b"".join(filter(None, contents))),
            "widths": np.asarray(widths, dtype=np.int64),
            "facts": _array(json.dumps(facts).encode()),
        }
        return save(tensors)

    @classmethod
    def from_bytes(cls, file: bytes) -> "Reading":
        """The reading whose ``to_bytes`` this is."""
        tensors = load(file)
        facts = json.loads(tensors["facts"].tobytes())
        token_bytes = _cut(tensors["content"].tobytes(), tensors["widths"])
        return cls(
            backend=tensors["backend"].tobytes().decode(),
            vocabulary=Vocabulary(token_bytes, dict(facts["roles"]), frozenset(facts["added"])),
            **{name: facts[name] for name in ("start_id", "template", "flaw", "fingerprint")},
        )


def _array(content: bytes) -> UInt8[np.ndarray, "byte"]:
    return np.frombuffer(content, dtype=np.uint8)


def _cut(content: bytes, widths: Int64[np.ndarray, "id"]) -> tuple[bytes | None, ...]:
    ends = np.cumsum(np.maximum(widths, 0)).tolist()
    found: list[bytes | None] = [
        content[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)
    ]
    for index in np.flatnonzero(widths == NO_BYTES).tolist():
        found[index] = None
    return tuple(found)


def quick_to_build(backend: str) -> str:
    """The same ``tokenizer.json`` with merges as older files have them, built in 3/4 of the time.

    These write both parts as one string with a space between, which no part may then hold; whether
    the tokenizer is still the same one is for the caller to check.
    """
    state = json.loads(backend)
    merges = state["model"].get("merges")
    if not merges or any(" " in part for merge in merges for part in merge):
        return backend
    state["model"]["merges"] = [" ".join(merge) for merge in merges]
    return json.dumps(state, ensure_ascii=False)
