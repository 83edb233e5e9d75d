"""What each special token of a model is for, and which one takes whose place in another tokenizer.

Roles come from the tokenizer's own settings and from what its chat template writes, never from a
token's name.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from losses.alignment.vocabulary import TokenKind
from losses.document import chat_document
from teachers.chat import ChatRefused, Rendering
from teachers.chat_tokens import PROBE, end_of_turn_id
from teachers.faithfulness import UnfaithfulTokenizer
from teachers.sealing import unsealed
from teachers.text_tokens import TextTokens
from teachers.tokenizer import Tokenizer

START = "start"
DESTRUCTIVE = (START, "end", "end_of_turn", "start_of_turn")
"""Roles whose loss changes what the model reads or where it stops."""


def special_roles(tokenizer: Tokenizer) -> dict[str, int]:
    """Role -> id, the less important roles first; one id may have several.

    ``start`` is what stands before a document (attention rests on it), ``start_of_turn`` and
    ``end_of_header`` are what a chat template writes before an answer.
    """
    fast = tokenizer.fast
    named = {"unknown": fast.unk_token_id, "pad": fast.pad_token_id}
    header = dict(zip(("start_of_turn", "end_of_header"), _header(tokenizer), strict=False))
    turn = {} if tokenizer.chat.is_plain else {"end_of_turn": end_of_turn_id(tokenizer)}
    last = {"end": fast.eos_token_id, START: tokenizer.start_id}
    return {
        role: index
        for role, index in (named | header | turn | last).items()
        if index is not None and _is_special(tokenizer, index)
    }


def special_names(tokenizer: Tokenizer) -> dict[str, int]:
    """Name -> id of every special token."""
    found = {index: tokenizer.fast.convert_ids_to_tokens(index) for index in _specials(tokenizer)}
    return {unsealed(str(name)): index for index, name in found.items()}


@dataclass(frozen=True)
class PairedSpecials:
    """New special token -> old one, and what the pairing loses, in sentences."""

    old: Mapping[int, int]
    warnings: tuple[str, ...]


def pair_specials(source: Tokenizer, target: Tokenizer) -> PairedSpecials:
    """Pair by name where a new tokenizer kept the old ones; where roles are told, by role.

    Of two roles that fall on one new token the more important one decides, ``start`` above all.
    """
    old_names, new_names = special_names(source), special_names(target)
    pairs = {new_names[name]: old for name, old in old_names.items() if name in new_names}
    old_roles, new_roles = special_roles(source), special_roles(target)
    pairs |= {new_roles[role]: old for role, old in old_roles.items() if role in new_roles}
    lost = [
        _lost(role, source, old_roles)
        for role, old in old_roles.items()
        if role not in new_roles and (role in DESTRUCTIVE or old not in pairs.values())
    ]
    shown = {index: name for name, index in new_names.items()}
    unknown = [
        f"{target.name}: nothing in {source.name} has the role {role} of {shown[index]}; its row "
        "says nothing at first"
        for role, index in new_roles.items()
        if index not in pairs
    ]
    return PairedSpecials(pairs, (*lost, *unknown))


def _lost(role: str, source: Tokenizer, roles: Mapping[str, int]) -> str:
    name = unsealed(str(source.fast.convert_ids_to_tokens(roles[role])))
    text = f"the new tokenizer has no special token with the role {role} of {source.name}'s {name}"
    if role in DESTRUCTIVE:
        text += ", which is destructive: embeddings.special_tokens: original keeps it"
    return text


def _header(tokenizer: Tokenizer) -> list[int]:
    """The special tokens between two turns, behind the one that ends a turn."""
    if tokenizer.chat.is_plain:
        return []
    try:
        rendering = tokenizer.chat.render(chat_document("probe", PROBE))
    except ChatRefused:
        return []
    [found] = tokenizer.encode_text([rendering.text], parse_special=True)
    if isinstance(found, UnfaithfulTokenizer):
        return []
    between = list(_between(tokenizer, rendering, found))
    end = end_of_turn_id(tokenizer)
    return [index for index in between if index != end]


def _between(tokenizer: Tokenizer, rendering: Rendering, found: TextTokens) -> Iterator[int]:
    low = rendering.starts[0] + len(PROBE[0][1].encode())
    inside = (found.starts >= low) & (found.ends <= rendering.starts[1])
    yield from (i for i in found.ids[inside].tolist() if _is_special(tokenizer, i))


def _specials(tokenizer: Tokenizer) -> Iterator[int]:
    yield from (i for i in sorted(tokenizer.vocabulary.roles) if _is_special(tokenizer, i))


def _is_special(tokenizer: Tokenizer, index: int) -> bool:
    in_range = index < len(tokenizer.vocabulary)
    return in_range and tokenizer.vocabulary.kind_of(index) is TokenKind.SPECIAL
