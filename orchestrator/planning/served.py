"""What a server sends: an answer in JSON for each document, much longer than the signal in it."""

import json
from collections.abc import Mapping

from teachers.server.source import Dialect, ServerSource

LISTED: Mapping[Dialect, object] = {
    Dialect.VLLM: {"12345": {"logprob": -12.345678, "rank": 12, "decoded_token": " word"}},
    Dialect.SGLANG: [-12.345678, 12345, None],
    Dialect.ECHO: {"token_id:12345": -12.345678},
}
"""One of a place's likeliest tokens as each dialect writes it."""

OWN: Mapping[Dialect, object] = {
    Dialect.VLLM: LISTED[Dialect.VLLM],
    Dialect.SGLANG: LISTED[Dialect.SGLANG],
    Dialect.ECHO: ["token_id:12345", -12.345678],
}
"""The text's own token; vLLM lists it among the others where it is one of them."""

PARSED = 9
"""Bytes of Python's objects for each byte of JSON, while an answer is read (measured: vLLM's with
twenty tokens a place)."""


def answer_bytes(source: ServerSource) -> int:
    """Bytes of an answer for each token of the text.

    Args:
        source: says the dialect and how many likely tokens are listed.
    """
    listed = source.top_logprobs * len(json.dumps(LISTED[source.dialect]))
    return len(json.dumps(OWN[source.dialect])) + listed
