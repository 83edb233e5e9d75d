"""Requests to a server over HTTP: a few at once, asked again after a fault that may pass."""

import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import httpx2
from pydantic import BaseModel, TypeAdapter, ValidationError
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    wait_random_exponential,
)

from teachers.server.source import ServerSource

log = logging.getLogger(__name__)

WAIT = wait_random_exponential(multiplier=0.5, max=30)
"""Seconds between two attempts: up to 0.5, then up to 1, 2, 4 … 30."""
TOO_MANY_REQUESTS = 429
FIRST_FAULT_OF_THE_SERVER = 500
FIRST_REFUSAL = 300
LONGEST_TEXT = 300
"""Characters of a server's own words in a message."""

T = TypeVar("T")
Answer = TypeVar("Answer")


class ServerLost(ConnectionError):
    """A teacher's server cannot be reached, does not answer in time, or fails."""


class Refused(ValueError):
    """A teacher's server understood the request and refuses it."""


class WrongAnswer(ValueError):
    """A teacher's server answered something else than what it was asked for."""


class Client:
    """One server.

    The key is read from the environment here, and goes nowhere but into the requests. ``with``
    closes the connections at its end.

    Args:
        source: the server and how it is asked.
        name: the teacher's, for messages.

    Raises:
        ValueError: the environment has no such variable, or it holds no key.
    """

    def __init__(self, source: ServerSource, name: str) -> None:
        self.source = source
        self._who = f"teacher {name}: the server at {source.url}"
        self._key = _key_of(source, name)
        logging.getLogger(httpx2.__name__).setLevel(logging.WARNING)  # it tells each request
        self._http = httpx2.Client(
            base_url=source.url,
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            timeout=source.timeout_s,
            limits=httpx2.Limits(max_connections=source.concurrency),
        )

    def get(self, path: str, kind: type[Answer]) -> Answer:
        """What the server has at ``path``; faults as in ``post``."""
        return self._asked("GET", path, None, kind)

    def post(self, path: str, request: dict[str, Any], kind: type[Answer]) -> Answer:
        """The server's answer to a JSON request.

        Raises:
            ServerLost: no answer after all attempts: no connection, too late, cut, or status 429
                or 5xx.
            Refused: any other status; it is not asked again.
        """
        return self._asked("POST", path, request, kind)

    def each(self, function: Callable[[T], Answer], items: Sequence[T]) -> list[Answer]:
        """``function`` of each item in order, as many at once as the server may be asked."""
        if not items:
            return []
        with ThreadPoolExecutor(min(self.source.concurrency, len(items))) as threads:
            return list(threads.map(function, items))

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *error: object) -> None:
        self._http.close()

    def wrong(self, text: str) -> WrongAnswer:
        """An answer that cannot be used, as an error."""
        return WrongAnswer(f"{self._who} {text}")

    def _asked(self, method: str, path: str, request: Any, kind: type[Answer]) -> Answer:
        attempts = Retrying(
            retry=retry_if_exception_type(ServerLost),
            stop=stop_after_attempt(self.source.retries + 1),
            wait=WAIT,
            before_sleep=self._tell,
            reraise=True,
        )
        found: Answer = attempts(self._once, method, path, request, kind)
        return found

    def _tell(self, state: RetryCallState) -> None:
        error = None if state.outcome is None else state.outcome.exception()
        log.warning("%s (attempt %d of %d)", error, state.attempt_number, self.source.retries + 1)

    def _once(self, method: str, path: str, request: Any, kind: type[Answer]) -> Answer:
        try:
            response = self._http.request(method, path, json=request)
        except httpx2.TimeoutException as error:
            raise ServerLost(
                f"{self._who} did not answer {path} within {self.source.timeout_s:g} s; raise "
                "server.timeout_s if it is only slow, or lower server.concurrency"
            ) from error
        except httpx2.RequestError as error:
            raise ServerLost(
                f"{self._who} cannot be reached, or cut its answer ({type(error).__name__}: "
                f"{error}); check server.url and that the server runs"
            ) from error
        self._check_status(response, path)
        try:
            return TypeAdapter(kind).validate_json(response.content)
        except ValidationError as error:
            raise self._unreadable(error, path) from error

    def _check_status(self, response: httpx2.Response, path: str) -> None:
        status = response.status_code
        if status < FIRST_REFUSAL:
            return
        text = f"{self._who} answered {path} with status {status}: {self._words(response)}"
        if status == TOO_MANY_REQUESTS or status >= FIRST_FAULT_OF_THE_SERVER:
            raise ServerLost(text)
        raise Refused(text)

    def _words(self, response: httpx2.Response) -> str:
        """What the server says, without the key should it repeat it."""
        text = response.text.replace(self._key, "***") if self._key else response.text
        return " ".join(text.split())[:LONGEST_TEXT]

    def _unreadable(self, error: ValidationError, path: str) -> Exception:
        """JSON that is cut may come whole the next time; JSON of another form will not."""
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        text = f"answered {path} with what cannot be read: {place} {first['msg']}"
        if first["type"] == "json_invalid":
            return ServerLost(f"{self._who} {text}")
        return self.wrong(f"{text}; expected the answer of {self.source.dialect} (server.dialect)")


class Served(BaseModel):
    """A model as ``/v1/models`` has it; vLLM tells how much it reads."""

    id: str
    max_model_len: int | None = None


class ServedModels(BaseModel):
    """What ``/v1/models`` answers."""

    data: list[Served]


def served_model(client: Client) -> Served:
    """What the server says of the model; nothing more than its name where it lists no models.

    Raises:
        ValueError: it lists others only.
        ServerLost: see ``Client.post``.
    """
    name = client.source.model
    try:
        found = client.get("/v1/models", ServedModels).data
    except Refused as error:
        log.warning("%s; the model's name is not checked", error)
        return Served(id=name)
    served = next((model for model in found if model.id == name), None)
    if served is None:
        others = ", ".join(f'"{model.id}"' for model in found) or "none"
        raise client.wrong(f'does not serve "{name}", but {others}; set the key model to one of it')
    return served


def _key_of(source: ServerSource, name: str) -> str | None:
    if source.api_key_variable is None:
        return None
    if not (key := os.environ.get(source.api_key_variable, "")):
        raise ValueError(
            f"teacher {name}: the environment variable {source.api_key_variable} "
            "(server.api_key_variable) is not set where the teacher runs; expected the server's key"
        )
    if not (key.isascii() and key.isprintable()) or key != key.strip():  # httpx2 would show it
        raise ValueError(
            f"teacher {name}: the environment variable {source.api_key_variable} "
            "(server.api_key_variable) holds a line break, a space at an end, or what is not "
            "ASCII; expected the server's key alone"
        )
    return key
