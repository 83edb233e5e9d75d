"""How servers are asked for a prompt's log-probabilities, and how their answers are read.

    dialect  endpoint          the text's own tokens            the likeliest tokens
    vllm     /v1/completions   prompt_logprobs[i][its id]       prompt_logprobs[i]
    sglang   /generate         meta_info.input_token_logprobs   meta_info.input_top_logprobs
    echo     /v1/completions   logprobs.token_logprobs          logprobs.top_logprobs

The token that some of them generate is thrown away.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Protocol, runtime_checkable

from annotated_types import Len
from pydantic import BaseModel, FiniteFloat

from teachers.server.source import Dialect, ServerSource

ECHOED = "token_id:"
"""How a server writes a token that it was asked to tell by its id."""


@dataclass(frozen=True)
class Row:
    """What a server says of one place of the prompt.

    Args:
        id: the token that it read there; None if it does not say.
        logprob: of the token that was sent (nats); None if it does not say.
        top: log-probabilities (nats) of the likeliest tokens, in any order.
    """

    id: int | None
    logprob: float | None
    top: Mapping[int, float]


@runtime_checkable
class Answer(Protocol):
    """An answer in some dialect."""

    def rows(self, ids: Sequence[int]) -> list[Row]:
        """One row for each token of the prompt as the server read it.

        Args:
            ids: the tokens that were sent.

        Raises:
            ValueError: it read more or fewer, or does not tell tokens by their ids.
        """


class VllmEntry(BaseModel):
    """One token of a place."""

    logprob: FiniteFloat


class VllmChoice(BaseModel):
    """The only completion; the place of the first token holds null."""

    prompt_logprobs: list[dict[int, VllmEntry] | None]
    prompt_token_ids: list[int] | None = None


class VllmAnswer(BaseModel):
    """What vLLM answers; a newer one also echoes the ids that it read."""

    choices: Annotated[list[VllmChoice], Len(1, 1)]

    def rows(self, ids: Sequence[int]) -> list[Row]:
        """See ``Answer``."""
        choice = self.choices[0]
        places = choice.prompt_logprobs
        _check_length(len(places), ids)
        read: Sequence[int | None] = [None] * len(ids)
        if choice.prompt_token_ids is not None:
            _check_length(len(choice.prompt_token_ids), ids)
            read = choice.prompt_token_ids
        rows = []
        for sent, index, entries in zip(ids, read, places, strict=True):
            top = {other: entry.logprob for other, entry in (entries or {}).items()}
            rows.append(Row(index, top.get(sent), top))
        return rows


class SglangTokens(BaseModel):
    """Log-probability, id and text of each token; the first has no log-probability."""

    input_token_logprobs: list[tuple[FiniteFloat | None, int, Any]]
    input_top_logprobs: list[list[tuple[FiniteFloat, int, Any]] | None] | None = None


class SglangAnswer(BaseModel):
    """What SGLang's own endpoint answers; its OpenAI endpoint tells nothing of the prompt."""

    meta_info: SglangTokens

    def rows(self, ids: Sequence[int]) -> list[Row]:
        """See ``Answer``."""
        own = self.meta_info.input_token_logprobs
        _check_length(len(own), ids)
        listed = self.meta_info.input_top_logprobs or [None] * len(ids)
        _check_length(len(listed), ids)
        return [
            Row(index, logprob, {other: value for value, other, _ in top or ()})
            for (logprob, index, _), top in zip(own, listed, strict=True)
        ]


class EchoedTokens(BaseModel):
    """The prompt's tokens, and those that were generated, as OpenAI's completions had them."""

    tokens: list[str]
    token_logprobs: list[FiniteFloat | None]
    top_logprobs: list[dict[str, FiniteFloat] | None] | None = None


class EchoedChoice(BaseModel):
    """The only completion."""

    logprobs: EchoedTokens


class EchoAnswer(BaseModel):
    """What a server answers that echoes the prompt."""

    choices: Annotated[list[EchoedChoice], Len(1, 1)]

    def rows(self, ids: Sequence[int]) -> list[Row]:
        """See ``Answer``; generated tokens come last."""
        echoed, sent = self.choices[0].logprobs, len(ids)
        listed = echoed.top_logprobs or [None] * len(echoed.tokens)
        for part in (echoed.tokens, echoed.token_logprobs, listed):
            _check_length(min(len(part), sent), ids)
        return [
            Row(_id(token), logprob, {_id(other): value for other, value in (top or {}).items()})
            for token, logprob, top in zip(
                echoed.tokens[:sent], echoed.token_logprobs[:sent], listed[:sent], strict=True
            )
        ]


ANSWERS: Mapping[Dialect, type[Any]] = {
    Dialect.VLLM: VllmAnswer,
    Dialect.SGLANG: SglangAnswer,
    Dialect.ECHO: EchoAnswer,
}


def request_of(source: ServerSource, ids: Sequence[int]) -> tuple[str, dict[str, Any]]:
    """The path and the JSON that ask for the log-probabilities of these tokens."""
    k = source.top_logprobs
    if source.dialect is Dialect.SGLANG:
        more = {"return_logprob": True, "logprob_start_len": 0, "top_logprobs_num": k}
        sampling = {"max_new_tokens": 1, "temperature": 0}
        return "/generate", {"input_ids": list(ids), "sampling_params": sampling, **more}
    request = {"model": source.model, "prompt": list(ids), "temperature": 0}
    if source.dialect is Dialect.ECHO:
        echo = {"max_tokens": 0, "echo": True, "logprobs": max(1, k)}
        return "/v1/completions", {**request, **echo, "return_tokens_as_token_ids": True}
    asked = {"max_tokens": 1, "prompt_logprobs": k, "return_token_ids": True}
    return "/v1/completions", {**request, **asked}


def _check_length(read: int, ids: Sequence[int]) -> None:
    if read != len(ids):
        raise ValueError(
            f"it tells {read} tokens, but {len(ids)} were sent: it cut the text, or added to it"
        )


def _id(token: str) -> int:
    if not token.startswith(ECHOED) or not token.removeprefix(ECHOED).isdecimal():
        raise ValueError(
            f'it tells a token as the text "{token[:20]}", which several ids may have; expected '
            f'"{ECHOED}N" (return_tokens_as_token_ids)'
        )
    return int(token.removeprefix(ECHOED))
