"""What a folder of signals says of itself: whose they are, of which text, asked in which groups."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter

from losses.base import Method

FORMAT: Final = 1

LOOSE = ("kind", "model", "name")
"""Facts about a teacher that change no signal."""

NOTE = (
    "Signals depend on the teacher's part and on each document's bytes alone, so they serve any "
    "student and any order of documents. Asked in other groups than the grouping says, the teacher "
    "would give the same numbers to rounding, not to the last bit."
)


class _Facts(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class TeacherFacts(_Facts):
    """All that decides a signal, beside its document.

    Args:
        name: the teacher's name in the run that wrote the cache; any other may read it.
        kind: the kind of teacher that spoke.
        model: as that run named it; ``weights`` is what counts.
        weights: identity of the weights.
        dtype: number format of weights and arithmetic.
        model_options: what was passed to ``from_pretrained``.
        tokenizer: the fingerprint: cutting, template and start token.
        template: choice of the chat template; None is the tokenizer's own.
        start_token: choice of the start token; None is the tokenizer's own.
        methods: each method's name and options, in the order of the stored signals.
        asks: what is stored of the teacher's score of each document.
    """

    name: str
    kind: str
    model: str | None
    weights: str
    dtype: str
    model_options: dict[str, Any]
    tokenizer: str
    template: str | None
    start_token: str | None
    methods: tuple[dict[str, Any], ...]
    asks: Literal["ce", "entropy"] | None

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all that decides a signal; of no name."""
        facts = self.model_dump(mode="json", exclude=set(LOOSE))
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


class GroupingFacts(_Facts):
    """Which documents were asked for together: it decides the last bits.

    The groups are those of the first epoch of a run with this seed, batch and number of ranks.
    """

    seed: int
    global_batch: int
    num_ranks: int
    token_budget: int
    packing: bool
    device: str


class TextFacts(_Facts):
    """The text: number and digest of the documents, and what cut them."""

    train: str
    held_out: str
    max_length: int
    student_tokenizer: str


class TokenizerFacts(_Facts):
    """What the model's configuration adds to its tokenizer, and the SHA-256 of its files."""

    max_tokens: int | None
    hidden_size: int | None
    files: dict[str, str]


class Manifest(_Facts):
    """The content of ``manifest.json``."""

    format: Literal[1]
    written_by: str
    teacher: TeacherFacts
    grouping: GroupingFacts
    data: TextFacts
    tokenizer: TokenizerFacts
    note: str = NOTE


class ShardFacts(_Facts):
    """The content of a shard's own ``.json``.

    Args:
        holds: what the file is to be read as.
        teacher: the fingerprint of ``TeacherFacts``, so that no other cache's shard is taken.
        num_bytes: size of the file.
        sha256: of the file.
        documents: their digests, in the order of the rows.
    """

    holds: Literal["signals", "scores", "head"]
    teacher: str
    num_bytes: int
    sha256: str
    documents: tuple[str, ...]


def described(method: Method) -> dict[str, Any]:
    """A method's name and options, as they are written in YAML.

    >>> from losses.methods.kl import Kl
    >>> described(Kl())["name"]
    'kl'
    """
    options = TypeAdapter(type(method)).dump_python(method, mode="json")
    return {"name": type(method).__module__.rsplit(".", 1)[-1], **options}


def differences(cached: Mapping[str, Any], asked: Mapping[str, Any]) -> Iterator[str]:
    """What differs, key by key, in words.

    >>> list(differences({"k": 4, "name": "uld"}, {"k": 8, "name": "uld"}))
    ['k: the cache has 4, the run asks for 8']
    """
    for key in dict.fromkeys([*asked, *cached]):
        if (key in cached) != (key in asked) or cached.get(key) != asked.get(key):
            yield f"{key}: the cache has {_text(cached, key)}, the run asks for {_text(asked, key)}"


def _text(values: Mapping[str, Any], key: str) -> str:
    return json.dumps(values[key], ensure_ascii=False) if key in values else "no such key"


def method_differences(manifest: Manifest, method: Method) -> list[str]:
    """Why the cache cannot serve a method; empty if it can."""
    asked = described(method)
    cached = [entry for entry in manifest.teacher.methods if entry["name"] == asked["name"]]
    if not cached:
        names = ", ".join(entry["name"] for entry in manifest.teacher.methods)
        return [f"the cache has no signals for {asked['name']}; expected one of: {names}"]
    return list(differences(cached[0], asked))


def place_of(manifest: Manifest, method: Method) -> int:
    """Where in a stored row the method's signal stands.

    Raises:
        ValueError: it has none with these options.
    """
    if found := method_differences(manifest, method):
        raise ValueError("; ".join(found))
    return manifest.teacher.methods.index(described(method))
