"""``teachers[].server``: where a teacher of kind ``openai`` answers, and how it is asked."""

import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, Field

from losses.mixture import Metric
from losses.needs import SERVES, Need
from orchestrator.config.method import MethodConfig
from orchestrator.config.problems import Problem
from orchestrator.config.section import Expected, Section

URL_RULE = "http:// or https:// with a host, without /v1, user or password"
VARIABLE_RULE = "the name of an environment variable (letters, digits and _), not the key itself"


def _check_url(url: str) -> str:
    if set("@?#") & set(url):  # it may hold a secret: do not show it
        raise ValueError(f"it holds a user, a password or a query; expected {URL_RULE}")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or not _has_port(parts):
        raise ValueError(f'"{url}" is not allowed; expected {URL_RULE}')
    plain = url.rstrip("/")
    if plain.endswith("/v1"):
        raise ValueError(f'"{url}" ends with /v1, which is added to it; expected {URL_RULE}')
    return plain


def _has_port(parts: SplitResult) -> bool:
    """True for a port from 1 to 65535, or none."""
    try:
        return parts.port != 0
    except ValueError:
        return False


def _check_variable(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):  # it may be the key: do not show it
        raise ValueError(f"this is not a name; expected {VARIABLE_RULE}")
    return name


class ServerConfig(Section):
    """An OpenAI-compatible server that tells the log-probabilities of a prompt."""

    url: Annotated[str, AfterValidator(_check_url), Expected(URL_RULE)]
    """Address of the server, such as http://localhost:8000."""
    dialect: Literal["vllm", "sglang", "echo"] = "vllm"
    """How it is asked: vllm by ``prompt_logprobs``, sglang by its own ``/generate``, echo by
    ``echo`` and ``logprobs`` with tokens told as ``token_id:N``. docs/servers.md explains them."""
    top_logprobs: int = Field(20, ge=0)
    """Likeliest tokens that the server lists for each token, asked for where a method reads them;
    a method's k must be smaller. vLLM lists 20 unless it was started with ``--max-logprobs``."""
    api_key_variable: (
        Annotated[str, AfterValidator(_check_variable), Expected(VARIABLE_RULE)] | None
    ) = None
    """Environment variable that holds the server's key where the teacher runs; null sends none."""
    timeout_s: float = Field(60.0, gt=0, le=1_000_000)
    """Seconds without a byte from the server after which a request is given up and sent again."""
    retries: int = Field(4, ge=0, le=100)
    """Times a request is sent again after a time-out, a lost connection, status 429 or 5xx."""
    concurrency: int = Field(8, ge=1)
    """Requests under way at once, from each of the teacher's processes."""
    tolerance: float = Field(0.05, gt=0)
    """Nats a token by which the server may differ from ``model_parity``, or from itself when it is
    asked in another order: the mean over a document's tokens."""


def listing_problems(server: ServerConfig, methods: Sequence[MethodConfig]) -> Iterator[Problem]:
    """Methods that read more likely tokens than the server lists beside the text's own."""
    for place, entry in enumerate(methods):
        k, most = getattr(entry.method, "k", 0), server.top_logprobs - 1
        if Need.TOP_K in entry.method.needs and k > most:
            lower = f"k: {most}, or " if most > 0 else ""
            yield Problem(
                ("methods", place),
                f"{entry.name} reads the {k} likeliest tokens beside the text's own, which may be "
                f"one of the {server.top_logprobs} that the server lists; expected {lower}"
                f"server.top_logprobs: {k + 1} (vLLM then needs --max-logprobs {k + 1})",
            )


def entropy_problems(asks: Metric | None, kinds: Sequence[str]) -> Iterator[Problem]:
    """Teachers whose entropy the mixture asks for, though a server does not tell it.

    Args:
        asks: what the mixture judges teachers by.
        kinds: of the teachers, in their order.
    """
    for index, kind in enumerate(kinds):
        if asks == "entropy" and Need.DISTRIBUTIONS not in SERVES[kind]:
            yield Problem(
                ("teachers", index, "kind"),
                f'mixture.weights reads each teacher\'s entropy, which a teacher of kind "{kind}" '
                "does not tell; expected another kind, or weights by cross-entropy",
            )
