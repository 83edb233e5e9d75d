"""Names of special tokens that no ordinary text can spell.

A byte tokenizer must read any text as bytes, also one that spells the name of a special token, and
still find the special tokens that its chat template writes. So their names begin with a code point
that Unicode reserves for a program's own use and that no text is to hold: ``U+FDD0``.
"""

SEAL = "\ufdd0"


def sealed(name: str) -> str:
    """The name that a byte tokenizer has for a special token."""
    return SEAL + name


def unsealed(name: str) -> str:
    """The name without its seal, if it has one.

    >>> unsealed(sealed("<s>")), unsealed("<s>")
    ('<s>', '<s>')
    """
    return name.removeprefix(SEAL)
