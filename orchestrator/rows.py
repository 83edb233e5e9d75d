"""One line of a data file as a document; what is wrong with a line is said with file and line."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias

from losses.document import CHAT_ROLES, Document, Segment, chat_document
from orchestrator.errors import ConfigError
from orchestrator.routing import Routing

Row: TypeAlias = dict[str, Any]

KEYS_OF_FORMS = (("text",), ("prompt", "completion"), ("messages",))
FORMS = '"text", "prompt" and "completion", or "messages"'


def read_row(line: bytes, name: str, routing: Routing | None = None) -> Document:
    """The document of one line.

    Args:
        line: a JSON object in UTF-8.
        name: file and line, for the document and for errors.
        routing: says which teachers it goes to; None sends it to all.

    Raises:
        ConfigError: the line is not of a known form, or nothing in it is scored.
    """
    row = _json_object(line, name)
    teachers = routing.teachers_of(row, name) if routing else None
    if "messages" in row:
        document = chat_document(name, list(_messages(row, name)))
        return replace(document, teachers=teachers)
    segments = tuple(_segments(row, name))
    if not any(segment.scored and segment.content for segment in segments):
        raise ConfigError(f"{name}: nothing to learn from: the scored text is empty")
    return Document(name, segments, teachers)


def _json_object(line: bytes, name: str) -> Row:
    try:
        row = json.loads(line.decode(), object_pairs_hook=partial(_each_key_once, name))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name}: not UTF-8 at byte {error.start} of the line") from error
    except json.JSONDecodeError as error:
        raise ConfigError(f"{name}: not a JSON object ({error.msg})") from error
    except (RecursionError, ValueError) as error:  # nested too deeply, or a number too long
        raise ConfigError(f"{name}: not a JSON object that can be read ({error})") from error
    if not isinstance(row, dict):
        raise ConfigError(f"{name}: expected a JSON object, found {type(row).__name__}")
    forms = [keys for keys in KEYS_OF_FORMS if all(key in row for key in keys)]
    if len(forms) > 1:
        found = " and ".join(f'"{key}"' for keys in forms for key in keys)
        raise ConfigError(f"{name}: has {found}; expected one form: {FORMS}")
    return row


def _each_key_once(name: str, pairs: list[tuple[str, Any]]) -> Row:
    row = dict(pairs)
    if len(row) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ConfigError(f'{name}: the key "{twice}" is there twice; expected it once')
    return row


def _segments(row: Row, name: str) -> Iterator[Segment]:
    if "text" in row:
        yield Segment("text", _utf8(row, "text", name), scored=True)
    elif "prompt" in row and "completion" in row:
        yield Segment("prompt", _utf8(row, "prompt", name), scored=False)
        yield Segment("completion", _utf8(row, "completion", name), scored=True)
    else:
        found = ", ".join(sorted(row)) or "nothing"
        raise ConfigError(f"{name}: expected the key {FORMS}; found {found}")


def _messages(row: Row, name: str) -> Iterator[tuple[str, str]]:
    messages = row["messages"]
    if not isinstance(messages, list) or not messages:
        found = "an empty list" if messages == [] else type(messages).__name__
        raise ConfigError(f'{name}: "messages" must be a list of messages, found {found}')
    for number, message in enumerate(messages, start=1):
        yield _message(message, f"{name}: message {number}")
    if (last := messages[-1]["role"]) != "assistant":
        raise ConfigError(
            f"{name}: the last message is of role {last}; expected assistant: nothing after the "
            "assistant's last message would be scored"
        )


def _message(message: Any, name: str) -> tuple[str, str]:
    if not isinstance(message, dict):
        raise ConfigError(f"{name}: expected an object, found {type(message).__name__}")
    given = {key for key, value in message.items() if value is not None}
    if unknown := sorted(given - {"role", "content"}):
        raise ConfigError(f'{name}: key "{unknown[0]}" is not read; expected "role" and "content"')
    if missing := [key for key in ("role", "content") if key not in given]:
        raise ConfigError(f'{name}: the key "{missing[0]}" is missing')
    if message["role"] not in CHAT_ROLES:
        raise ConfigError(
            f"{name}: unknown role {message['role']!r}; expected {', '.join(CHAT_ROLES)}"
        )
    content = _utf8(message, "content", name).decode()
    if not content:
        raise ConfigError(f'{name}: "content" is empty; leave the message or the row out')
    return message["role"], content


def _utf8(row: Row, key: str, name: str) -> bytes:
    value = row[key]
    if not isinstance(value, str):
        raise ConfigError(f'{name}: "{key}" must be a string, found {type(value).__name__}')
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(
            f'{name}: "{key}" holds half a surrogate pair at {error.start}'
        ) from error
