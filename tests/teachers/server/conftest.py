"""A toy model behind a real server, teachers that ask it, and the same model as a live teacher."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from tenacity import wait_none

from losses.methods.p_kl import PKl
from teachers.server import client as client_module
from teachers.server.client import Client
from teachers.server.parity import Parity
from teachers.server.source import Dialect, ServerSource
from teachers.server.teacher import ServerTeacher
from teachers.source import ModelSource


@pytest.fixture(autouse=True)
def impatient(monkeypatch) -> None:
    monkeypatch.setattr(client_module, "WAIT", wait_none())


@pytest.fixture(scope="module")
def model(language_model) -> Any:
    return language_model("llama")


@pytest.fixture
def server(scripted_server, model) -> Iterator[Any]:
    with scripted_server(model) as running:
        yield running


@pytest.fixture
def ask() -> Iterator[Callable[..., ServerTeacher]]:
    """Build a teacher that asks a server; its connections are closed at the end."""
    with ExitStack() as stack:

        def build(
            server: Any,
            *methods: Any,
            parity: Parity | None = None,
            asks: Any = None,
            dialect: str = "vllm",
            **source: Any,
        ) -> ServerTeacher:
            tokenizer = server.model.tokenizer
            options = {"model": "toy", "timeout_s": 30.0, "top_logprobs": 8} | source
            where = ServerSource(
                url=server.url, tokenizer=ModelSource("-"), dialect=Dialect(dialect), **options
            )
            client = stack.enter_context(Client(where, "gemma"))
            probes = parity or Parity("gemma", 0.05)
            return ServerTeacher(client, tokenizer, methods or (PKl(k=5),), probes, asks)

        yield build
