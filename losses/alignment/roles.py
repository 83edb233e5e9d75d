"""Special tokens of two vocabularies that stand for the same thing.

Special tokens have no bytes, so they are paired by role. The token that ends a text is its
vocabulary's ``end``, the one that closes an assistant's turn its ``end_of_turn``. A token that does
both is the ``end_of_turn``, and there is no ``end``; a model without chats of its own has only the
``end``. Such a single token is the partner of both of the other vocabulary's tokens. Its own
partner is the one of the same role, if there is one.
"""

from losses.alignment.vocabulary import ENDS, Vocabulary

_OTHER_END = dict(zip(ENDS, reversed(ENDS), strict=True))


def role_partners(source: Vocabulary, target: Vocabulary) -> dict[int, int]:
    """The target's token for each special token of the source that has one.

    Of several target tokens with one role the lowest id is taken; ``other`` is no role to pair by.

    >>> chat = Vocabulary((None, None), {0: "end", 1: "end_of_turn"})
    >>> joint = Vocabulary((None,), {0: "end_of_turn"})
    >>> role_partners(chat, joint), role_partners(joint, chat)
    ({0: 0, 1: 0}, {0: 1})
    """
    theirs = {role: index for index, role in sorted(target.roles.items(), reverse=True)}
    theirs.pop("other", None)
    found = {}
    for index, role in source.roles.items():
        partner = theirs.get(role, theirs.get(_OTHER_END.get(role, ""), -1))
        if partner >= 0:
            found[index] = partner
    return found


def second_ends(source: Vocabulary, target: Vocabulary) -> frozenset[int]:
    """Source tokens whose partner belongs to another source token by its own role.

    >>> chat = Vocabulary((None, None), {0: "end", 1: "end_of_turn"})
    >>> second_ends(chat, Vocabulary((None,), {0: "end_of_turn"}))
    frozenset({0})
    """
    ours = set(source.roles.values())
    return frozenset(
        index
        for index, partner in role_partners(source, target).items()
        if target.roles[partner] != source.roles[index] and target.roles[partner] in ours
    )
