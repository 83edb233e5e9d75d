"""A chat template that writes sealed names of special tokens.

The names are replaced in the template's text. A template that puts names together from parts is
wrapped instead: what it wrote is searched for names. Either way it is tried on chats.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerFast

from teachers.sealing import SEAL, sealed

Template: TypeAlias = str | dict[str, str]
Change: TypeAlias = Callable[[str, Sequence[str]], str]

CHATS = (
    (("user", "Hello there."), ("assistant", "Hello.")),
    (("system", "Be brief."), ("user", "One?"), ("assistant", "Two."), ("user", "Three?")),
    (("user", "Hello there."),),
)


def seal_template(
    source: PreTrainedTokenizerFast, names: Sequence[str], target: PreTrainedTokenizerFast
) -> Template | None:
    """The source's template for a tokenizer whose special tokens have sealed names.

    Args:
        source: the old tokenizer.
        names: of the special tokens that the new one has.
        target: the new tokenizer; its template is not read.

    Raises:
        ValueError: the template cannot be made to write sealed names.
    """
    template = source.chat_template
    if template is None:
        return None
    for change in (seal_names, _wrapped):
        found = _changed(template, names, change)
        if _agree(source, target, template, found, names):
            return found
    raise ValueError(
        f"{source.name_or_path}: its chat template cannot be made to write the special tokens of a "
        "byte tokenizer; expected one that writes their names as they are: set template: plain"
    )


def unseal_template(template: Template | None) -> Template | None:
    """The same without seals, for special tokens whose names have none.

    >>> unseal_template({"default": sealed("<s>") + "{{ messages }}"})
    {'default': '<s>{{ messages }}'}
    """
    return None if template is None else _changed(template, (), lambda text, _: _bare(text))


def _bare(text: str) -> str:
    return text.replace(SEAL, "")


def seal_names(text: str, names: Sequence[str]) -> str:
    """The text with a seal before each of these names; of two that fit the longer one counts.

    >>> seal_names("a<s>b<s2>", ["<s>", "<s2>"]).replace(sealed(""), "^")
    'a^<s>b^<s2>'
    """
    longest = sorted(names, key=len, reverse=True)
    if not longest:
        return text
    return re.sub("|".join(map(re.escape, longest)), lambda found: sealed(found[0]), text)


def _wrapped(template: str, names: Sequence[str]) -> str:
    """Seals what the template writes; a name in a message is taken for a special token then."""
    seals = "".join(
        f" | replace({_literal(name)}, {_literal(sealed(name))})"
        for name in sorted(names, key=len, reverse=True)
    )
    return "{%- set written -%}" + template + "{%- endset -%}{{ written" + seals + " }}"


def _literal(text: str) -> str:
    quoted = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return f"'{quoted}'"


def _changed(template: Template, names: Sequence[str], change: Change) -> Template:
    if isinstance(template, str):
        return change(template, names)
    return {name: change(text, names) for name, text in template.items()}


def _agree(
    source: PreTrainedTokenizerFast,
    target: PreTrainedTokenizerFast,
    before: Template,
    after: Template,
    names: Sequence[str],
) -> bool:
    """Whether both write the same but for the seals."""
    for old, new in _parts(before, after):
        for chat in CHATS:
            for opened in (False, True):
                written = _written(source, old, chat, opened)
                if written is not None:
                    expected = seal_names(written, names)
                    if _written(target, new, chat, opened) != expected:
                        return False
    return True


def _parts(before: Template, after: Template) -> Iterator[tuple[str, str]]:
    if isinstance(before, str) and isinstance(after, str):
        yield before, after
    elif isinstance(before, Mapping) and isinstance(after, Mapping):
        yield from ((text, after[name]) for name, text in before.items())


def _written(
    fast: PreTrainedTokenizerFast, template: str, chat: Sequence[tuple[str, str]], opened: bool
) -> str | None:
    """What the template writes; None if it refuses the chat."""
    rows: list[dict[str, Any]] = [{"role": role, "content": content} for role, content in chat]
    try:
        return str(
            fast.apply_chat_template(
                rows, chat_template=template, tokenize=False, add_generation_prompt=opened
            )
        )
    except (TemplateError, TypeError, ValueError):
        return None
