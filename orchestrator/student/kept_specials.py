"""The special tokens that a student keeps of its ``init`` when it gets another tokenizer."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken
from tokenizers.processors import TemplateProcessing

from orchestrator.student.special_roles import special_names, special_roles
from teachers.sealing import unsealed
from teachers.tokenizer import Tokenizer

NAMED = ("bos_token", "eos_token", "unk_token", "pad_token")


@dataclass(frozen=True)
class KeptSpecials:
    """What the new tokenizer takes over.

    Args:
        tokens: the tokens with their flags, in the order of their old ids.
        named: ``bos_token`` and the like, as far as they are kept.
        before: tokens that the old tokenizer puts before every text by itself.
        after: those that it puts behind.
    """

    tokens: Sequence[AddedToken]
    named: Mapping[str, str]
    before: Sequence[str]
    after: Sequence[str]

    @classmethod
    def of(cls, source: Tokenizer) -> "KeptSpecials":
        """Those with a role, those that the chat template names, and those put around a text."""
        names = special_names(source)
        roles = set(special_roles(source).values())
        texts = [] if source.chat.is_plain else list(_templates(source.chat.own))
        before, after = _around(source, names)
        wanted = {n for n, i in names.items() if i in roles or any(n in t for t in texts)}
        wanted |= {*before, *after}
        added = source.backend.get_added_tokens_decoder()
        kept = [(names[name], name) for name in wanted]
        given = source.fast.special_tokens_map
        named = {key: unsealed(str(given[key])) for key in NAMED if given.get(key)}
        return cls(
            tokens=[_token(added.get(index), name) for index, name in sorted(kept)],
            named={key: name for key, name in named.items() if name in wanted},
            before=before,
            after=after,
        )

    def processor(self, ids: Mapping[str, int]) -> TemplateProcessing:
        """Puts the same tokens around a text as the old tokenizer did.

        Args:
            ids: name in the new tokenizer -> id.
        """
        before, after = list(self.before), list(self.after)
        second = [f"{name}:1" for name in before], [f"{name}:1" for name in after]
        return TemplateProcessing(
            single=[*before, "$A", *after],
            pair=[*before, "$A", *after, *second[0], "$B:1", *second[1]],
            special_tokens=[(name, ids[name]) for name in dict.fromkeys([*before, *after])],
        )


def _token(found: AddedToken | None, name: str) -> AddedToken:
    """The token as the old tokenizer has it; what it strips around itself belongs to a template."""
    if found is None:
        return AddedToken(name, normalized=False, special=True)
    strips: dict[str, Any] = {"lstrip": found.lstrip, "rstrip": found.rstrip}
    return AddedToken(name, normalized=False, special=True, **strips)


def _templates(source: object) -> Iterator[str]:
    """The text of a template, or of several by name."""
    if isinstance(source, Mapping):
        yield from map(str, source.values())
    else:
        yield str(source)


def _around(source: Tokenizer, names: Mapping[str, int]) -> tuple[list[str], list[str]]:
    """The names of the tokens that the tokenizer adds before and behind a text."""
    shown = {index: name for name, index in names.items()}
    bare = source.ids_of(["a"])[0]
    whole = source.backend.encode("a", add_special_tokens=True).ids
    places = range(len(whole) - len(bare) + 1)
    start = next((i for i in places if whole[i : i + len(bare)] == bare), len(whole))
    before, after = whole[:start], whole[start + len(bare) :]
    return [shown[i] for i in before if i in shown], [shown[i] for i in after if i in shown]
