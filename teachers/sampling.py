"""Texts that a model writes: plain sampling from its own distribution, in batches.

Nothing of the model's own generation settings (top-k, top-p, penalties) takes part: what is
sampled is what the model predicts.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, PreTrainedModel, StoppingCriteria

from losses.alignment.tokens import Tokens
from losses.alignment.vocabulary import Vocabulary
from losses.document import text_document
from teachers.backends.transformers import LanguageModel


@dataclass(frozen=True)
class Sampling:
    """How texts are sampled.

    Args:
        num_bytes: a text goes on until it is at least this long, or ends by itself.
        temperature: divides the logits.
        seed: of the whole sample; the same batches of prompts give the same texts.
        batch_size: texts written at once.
    """

    num_bytes: int
    temperature: float = 1.0
    seed: int = 0
    batch_size: int = 32


@torch.no_grad()
def continuations(model: LanguageModel, prompts: Sequence[str], sampling: Sampling) -> list[bytes]:
    """What the model writes after each prompt; not always whole UTF-8 characters.

    A special token ends a text. The last token is whole, so a text may be a few bytes longer than
    asked for. The model is used as it is: put it into evaluation mode first.

    Raises:
        ValueError: a prompt is as long as the model can read.
    """
    documents = [text_document(f"prompt {i}", prompt) for i, prompt in enumerate(prompts)]
    tokens = model.encode(documents)
    found: list[bytes] = []
    vocabulary = model.tokenizer.vocabulary
    with _own_distribution(model.model, model.device, sampling.seed):
        for low in range(0, len(tokens), sampling.batch_size):
            rows = _generate(model, tokens[low : low + sampling.batch_size], sampling)
            found.extend(written(vocabulary, row, sampling.num_bytes) for row in rows)
    return found


def _generate(
    model: LanguageModel, prompts: Sequence[Tokens], sampling: Sampling
) -> list[list[int]]:
    """Ids after each prompt, padded by an id that ends the text."""
    ids, mask = _padded_left(prompts)
    vocabulary = model.tokenizer.vocabulary
    ends = sorted(vocabulary.roles)
    limit = getattr(model.model.config.get_text_config(), "max_position_embeddings", None)
    room = sampling.num_bytes if limit is None else limit - ids.shape[1]
    if room < 1:
        raise ValueError(
            f"a prompt of {ids.shape[1]} tokens leaves no room to go on: {model.tokenizer.name} "
            f"reads at most {limit}; use shorter prompts"
        )
    config = GenerationConfig(
        do_sample=True,
        temperature=sampling.temperature,
        top_k=0,
        top_p=1.0,
        max_new_tokens=min(sampling.num_bytes, room),
        eos_token_id=ends or None,
        pad_token_id=ends[0] if ends else 0,
    )
    known = [i for i, b in enumerate(vocabulary.token_bytes) if b is not None] + ends
    widths = [len(content or b"") for content in vocabulary.token_bytes]
    output = model.model.generate(  # type: ignore[operator]
        input_ids=ids.to(model.device),
        attention_mask=mask.to(model.device),
        generation_config=config,
        logits_processor=[_OnlyKnown(torch.tensor(known, device=model.device))],
        stopping_criteria=[
            _LongEnough(torch.tensor(widths, device=model.device), ids.shape[1], sampling.num_bytes)
        ],
    )
    rows: list[list[int]] = output[:, ids.shape[1] :].tolist()
    return rows


def _padded_left(
    prompts: Sequence[Tokens],
) -> tuple[Int64[Tensor, "row token"], Int64[Tensor, "row token"]]:
    """Ids and attention mask, every prompt ending in the last column."""
    longest = max(len(tokens) for tokens in prompts)
    ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, tokens in enumerate(prompts):
        ids[row, longest - len(tokens) :] = torch.from_numpy(tokens.ids)
        mask[row, longest - len(tokens) :] = 1
    return ids, mask


def written(vocabulary: Vocabulary, ids: Sequence[int], num_bytes: int) -> bytes:
    """Bytes of the ids up to the first without bytes, or until the text is long enough.

    >>> vocabulary = Vocabulary((b"ab", None))
    >>> written(vocabulary, [0, 0, 0], 3), written(vocabulary, [0, 1, 0], 9)
    (b'abab', b'ab')
    """
    text = b""
    for index in ids:
        content = vocabulary.token_bytes[index]
        if content is None or len(text) >= num_bytes:
            break
        text += content
    return text


@contextmanager
def _own_distribution(model: PreTrainedModel, device: torch.device, seed: int) -> Iterator[None]:
    """No generation settings but those that are passed, and a seed that touches no other draw."""
    own = model.generation_config
    model.generation_config = GenerationConfig()
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            yield
    finally:
        model.generation_config = own


class _OnlyKnown(LogitsProcessor):
    """Neither padded rows of the head nor ids that stand for nothing are ever drawn."""

    def __init__(self, known: Int64[Tensor, "known"]) -> None:
        self.known = known

    def __call__(
        self, input_ids: Int64[Tensor, "row token"], scores: Float[Tensor, "row vocab"]
    ) -> Float[Tensor, "row vocab"]:
        unknown = torch.ones(scores.shape[-1], dtype=torch.bool, device=scores.device)
        unknown[self.known] = False
        return scores.masked_fill(unknown, -torch.inf)


class _LongEnough(StoppingCriteria):
    """A text is done when its new tokens have enough bytes."""

    def __init__(self, widths: Int64[Tensor, "vocab"], first: int, num_bytes: int) -> None:
        self.widths = widths
        self.first = first
        self.num_bytes = num_bytes

    def __call__(
        self, input_ids: Int64[Tensor, "row token"], scores: object, **kwargs: object
    ) -> Bool[Tensor, "row"]:
        return self.widths[input_ids[:, self.first :]].sum(-1) >= self.num_bytes
