"""Chats as each model's own template writes them, and where their messages lie in that text.

A template is a program. What it writes around the messages is found by giving it a sentinel in
the place of each content; a chat is used only if the template writes exactly the same around the
contents themselves, unchanged.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Literal, TypeAlias

from jinja2.exceptions import TemplateError, TemplateSyntaxError

from losses.document import CHAT_ROLES, Document

if TYPE_CHECKING:
    from teachers.tokenizer import Tokenizer

PLAIN = (
    "{% for message in messages %}"
    "{{ '' if loop.first else '\n\n' }}{{ message.role | capitalize }}:\n{{ message.content }}"
    "{% if message.role == 'assistant' %}{{ eos_token or '\n' }}{% endif %}"
    "{% endfor %}"
)
"""The rendering of a model without a chat template.

The header ends in a line break: a space would become part of the first word's token.
"""

TemplateChoice: TypeAlias = Literal["plain"]

Messages: TypeAlias = Sequence[tuple[str, str]]
"""(role, content) of each message."""


class ChatRefused(ValueError):
    """A template cannot write a chat without changing its messages; the message is the reason."""


@dataclass(frozen=True)
class Rendering:
    """A chat as one text.

    Args:
        text: what the tokenizer reads, special tokens as their literal strings.
        starts: offset in the text's UTF-8 bytes at which each message's content begins.
    """

    text: str
    starts: tuple[int, ...]


class ChatTemplate:
    """The chat template of one tokenizer, or the plain one.

    Args:
        tokenizer: its ``fast`` renders; it is asked for only then.
        own: the tokenizer's own template, None if it has none.
        choice: ``plain``, or None for the tokenizer's own template; without one, also plain.
    """

    def __init__(
        self, tokenizer: "Tokenizer", own: object, choice: TemplateChoice | None = None
    ) -> None:
        self.own = own
        self.has_own = own is not None
        self.is_plain = choice == "plain" or not self.has_own
        self._tokenizer = tokenizer
        self._around: dict[tuple[str, ...], tuple[str, ...]] = {}

    @property
    def description(self) -> str:
        """Which template it is, in words."""
        if not self.is_plain:
            return "its own chat template"
        return "plain chats" if self.has_own else "plain chats (it has no chat template)"

    @property
    def closing(self) -> str:
        """What the tokenizer's own template writes behind an answer that ends a chat.

        Nothing for the plain rendering, and where the template refuses a question and an answer.
        """
        if self.is_plain:
            return ""
        try:
            return self._find_around(("user", "assistant"))[-1]
        except ChatRefused:
            return ""

    @property
    def source(self) -> object:
        """The template's text, or several of them by name."""
        return PLAIN if self.is_plain else self.own

    @cached_property
    def flaw(self) -> str | None:
        """Why this is no template at all; None if it is one, whichever chats it refuses."""
        if self.is_plain:
            return None
        try:
            template: object = self._tokenizer.fast.get_chat_template()
        except ValueError as error:
            return str(error)
        if not isinstance(template, str):
            return f"it is {template!r}, not text"
        try:
            self._apply([("user", "")])
        except ChatRefused as refused:
            if isinstance(refused.__cause__, TemplateSyntaxError):
                return f"line {refused.__cause__.lineno}: {refused.__cause__.message}"
        return None

    def render(self, document: Document) -> Rendering:
        """A chat as ``apply_chat_template`` writes it.

        Raises:
            ChatRefused: the template refuses the chat, or changes one of its messages.
        """
        messages = messages_of(document)
        text, roles = self._apply(messages), tuple(role for role, _ in messages)
        contents = [content for _, content in messages]
        around = self._around.get(roles)
        if around is None or _join(around, contents) != text:  # a template may write the date
            around = self._around[roles] = self._find_around(roles)
        if _join(around, contents) != text:
            raise ChatRefused(_reason(around, contents, text))
        return Rendering(text, _starts(around, contents))

    def _apply(self, messages: Messages) -> str:
        rows = [{"role": role, "content": content} for role, content in messages]
        own = None if not self.is_plain else PLAIN
        try:
            fast = self._tokenizer.fast
            return str(fast.apply_chat_template(rows, chat_template=own, tokenize=False))
        except TemplateError as error:
            raise ChatRefused(f"the chat template says: {error.message}") from error
        except (TypeError, ValueError) as error:
            raise ChatRefused(f"the chat template fails: {error}") from error

    def _find_around(self, roles: tuple[str, ...]) -> tuple[str, ...]:
        """What the template writes before, between and after the contents."""
        sentinels = [f"\ue000{index}\ue001" for index in range(len(roles))]
        text = rest = self._apply(list(zip(roles, sentinels, strict=True)))
        around = []
        for role, sentinel in zip(roles, sentinels, strict=True):
            before, found, rest = rest.partition(sentinel)
            if not found or sentinel in rest:
                does = "moves or repeats" if sentinel in text else "leaves out"
                raise ChatRefused(f"the chat template {does} a message of role {role}")
            around.append(before)
        return (*around, rest)


def messages_of(document: Document) -> list[tuple[str, str]]:
    """The chat without the marks at the ends of turns."""
    return [(s.role, s.content.decode()) for s in document.segments if s.role in CHAT_ROLES]


def _join(around: Sequence[str], contents: Sequence[str]) -> str:
    return "".join(chain.from_iterable(zip_longest(around, contents, fillvalue="")))


def _starts(around: Sequence[str], contents: Sequence[str]) -> tuple[int, ...]:
    starts, position = [], 0
    for before, content in zip(around, contents, strict=False):
        position += len(before.encode())
        starts.append(position)
        position += len(content.encode())
    return tuple(starts)


def _reason(around: Sequence[str], contents: Sequence[str], text: str) -> str:
    if _join(around, [content.strip() for content in contents]) == text:
        return "the chat template trims white space around a message"
    return "the chat template changes the content of a message"
