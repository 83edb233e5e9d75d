"""A prompt as one member reads it: its own tokenizer, template and start token."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from jinja2.exceptions import TemplateError

from losses.document import text_document
from teachers.chat import PLAIN
from teachers.tokenizer import Tokenizer

Prompt: TypeAlias = str | Sequence[Mapping[str, str]]
"""Text to go on with, or a chat to answer: messages with ``role`` and ``content``."""

ASSISTANT = "\n\nAssistant:\n"
"""How the plain rendering of a chat opens the assistant's turn."""


@dataclass(frozen=True)
class PromptTokens:
    """A prompt's ids, one at least.

    Args:
        ids: what the member reads.
        num_text: how many of the last ones are text of the prompt, which other tokens with the
            same bytes may replace; 0 after a chat template.
    """

    ids: tuple[int, ...]
    num_text: int


def read_prompt(tokenizer: Tokenizer, prompt: Prompt) -> PromptTokens:
    """The prompt's tokens; a chat with the assistant's turn opened.

    Raises:
        ValueError: the tokenizer cannot read the prompt exactly, its template refuses the chat, a
            message holds one of its special tokens, or nothing at all would be read.
    """
    found = _text(tokenizer, prompt) if isinstance(prompt, str) else _chat(tokenizer, prompt)
    if not found.ids:
        raise ValueError(
            f"{tokenizer.name}: the prompt is empty and the tokenizer has no start token, so the "
            "model would read nothing; expected a prompt of one character at least"
        )
    return found


def _text(tokenizer: Tokenizer, prompt: str) -> PromptTokens:
    [tokens] = tokenizer.encode([text_document("prompt", prompt)])
    starts = 0 if tokenizer.start_id is None else 1
    return PromptTokens(tuple(tokens.ids.tolist()), len(tokens) - starts)


def _chat(tokenizer: Tokenizer, messages: Sequence[Mapping[str, str]]) -> PromptTokens:
    _refuse_special(tokenizer, messages)
    [ids] = tokenizer.ids_of([_rendered(tokenizer, messages)], parse_special=True)
    if tokenizer.chat.is_plain and tokenizer.start_id is not None:
        ids = [tokenizer.start_id, *ids]
    return PromptTokens(tuple(ids), 0)


def _rendered(tokenizer: Tokenizer, messages: Sequence[Mapping[str, str]]) -> str:
    """The chat as the member's own template writes it, with the assistant's turn opened."""
    plain, fast, rows = tokenizer.chat.is_plain, tokenizer.fast, [dict(row) for row in messages]
    try:
        text = fast.apply_chat_template(
            rows,
            chat_template=PLAIN if plain else None,
            add_generation_prompt=not plain,
            tokenize=False,
        )
    except (TemplateError, TypeError) as error:
        raise ValueError(
            f"{tokenizer.name}: its chat template refuses the prompt ({error}); expected messages "
            "with role (system, user or assistant) and content, in an order that it knows"
        ) from error
    return str(text) + ASSISTANT if plain else str(text)


def _refuse_special(tokenizer: Tokenizer, messages: Sequence[Mapping[str, str]]) -> None:
    """A message's text must stay text: no special token may come in through it."""
    contents = [str(message.get("content", "")) for message in messages]
    for ids in tokenizer.ids_of(contents, parse_special=True):
        if special := [index for index in ids if index in tokenizer.vocabulary.roles]:
            literal = tokenizer.fast.convert_ids_to_tokens(special[0])
            raise ValueError(
                f"{tokenizer.name}: a message holds the special token {literal}; expected text"
            )
