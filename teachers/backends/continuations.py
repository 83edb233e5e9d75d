"""What a model says after a document's beginning and some other tokens, for many at once.

The other tokens of all continuations follow the document in one row. Each sees the document's
tokens before it, its own continuation and nothing else; its place is that after those. So one pass
over them is enough, and the document's keys and values are not computed again.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from losses.alignment.tokens import Tokens
from losses.continuations import Continuation

KeysAndValues: TypeAlias = tuple[tuple[Tensor, Tensor], ...]
"""Of each layer, ``[1, heads, token, width]``."""

TOKENS_AT_ONCE = 512
"""Other tokens of one pass; their attention among themselves grows with the square."""
TOLERANCE = {torch.bfloat16: 0.1, torch.float16: 0.02}
"""Mean relative change of hidden states that the self-test allows; 1e-3 in fp32."""
SLIDING = "sliding_attention"
KINDS = {"full_attention", SLIDING}
"""Kinds of layers whose masks are known; others may look alike on a short probe."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CachedContinuations:
    """One document's model, with its keys and values kept.

    Args:
        model: any causal language model that ``shares_passes`` accepts.
        ids: the document's tokens.
        cache: their keys and values.
    """

    model: PreTrainedModel
    ids: Int64[Tensor, "token"]
    cache: KeysAndValues = field(repr=False)

    def hidden_after(
        self, continuations: Sequence[Continuation]
    ) -> Float[Tensor, "continuation hidden"]:
        """See ``Continuations``; in passes of about ``TOKENS_AT_ONCE`` tokens."""
        return torch.cat([self._pass(part) for part in _parts(continuations)])

    def _pass(self, continuations: Sequence[Continuation]) -> Float[Tensor, "continuation hidden"]:
        row = _Row.of(continuations, self.ids.device)
        length = max(continuation.position for continuation in continuations) + 1
        cache = DynamicCache(tuple((k[:, :, :length], v[:, :, :length]) for k, v in self.cache))
        output = self.model.base_model(
            input_ids=row.ids[None],
            position_ids=row.places[None],
            attention_mask=_masks(self.model, row, length),
            past_key_values=cache,
            use_cache=True,
        )
        hidden: Tensor = output.last_hidden_state[0, row.last]
        return hidden


@dataclass(frozen=True)
class PlainContinuations:
    """The same by plain passes over the document's beginnings, for every other architecture."""

    model: PreTrainedModel
    ids: Int64[Tensor, "token"]
    tokens_at_once: int = 4096

    def hidden_after(
        self, continuations: Sequence[Continuation]
    ) -> Float[Tensor, "continuation hidden"]:
        """See ``Continuations``."""
        lengths = [one.position + 1 + len(one.ids) for one in continuations]
        size = max(1, self.tokens_at_once // max(lengths))
        parts = range(0, len(continuations), size)
        return torch.cat([self._pass(continuations[low : low + size]) for low in parts])

    def _pass(self, continuations: Sequence[Continuation]) -> Float[Tensor, "continuation hidden"]:
        rows = [
            torch.cat([self.ids[: one.position + 1], self.ids.new_tensor(one.ids)])
            for one in continuations
        ]
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        last = torch.tensor([len(row) - 1 for row in rows], device=ids.device)
        mask = (torch.arange(ids.shape[1], device=ids.device) <= last[:, None]).long()
        output = self.model.base_model(input_ids=ids, attention_mask=mask, use_cache=False)
        states: Tensor = output.last_hidden_state
        return states[torch.arange(len(rows), device=ids.device), last]


@dataclass(frozen=True)
class _Row:
    """All continuations' tokens one after the other.

    Args:
        ids: the tokens.
        owner: the continuation of each.
        seen: the place of the last token of the document that each sees.
        places: the place of each.
        last: where the last token of each continuation is.
    """

    ids: Int64[Tensor, "other"]
    owner: Int64[Tensor, "other"]
    seen: Int64[Tensor, "other"]
    places: Int64[Tensor, "other"]
    last: Int64[Tensor, "continuation"]

    @classmethod
    def of(cls, continuations: Sequence[Continuation], device: torch.device) -> "_Row":
        counts = torch.tensor([len(one.ids) for one in continuations])
        owner = torch.repeat_interleave(counts)
        seen = torch.tensor([one.position for one in continuations])[owner]
        depth = torch.arange(len(owner)) - (counts.cumsum(0) - counts)[owner]
        ids = torch.tensor([token for one in continuations for token in one.ids])
        fields = ids, owner, seen, seen + 1 + depth, counts.cumsum(0) - 1
        return cls(*(values.to(device) for values in fields))

    def visible(self, length: int, window: int | None) -> Bool[Tensor, "other all"]:
        """What each token sees of the document's first ``length`` tokens and of all others."""
        document = torch.arange(length, device=self.ids.device)
        before = document <= self.seen[:, None]
        own = (self.owner[:, None] == self.owner) & (self.places <= self.places[:, None])
        if window is not None:
            before &= self.places[:, None] - document < window
            own &= self.places[:, None] - self.places < window
        return torch.cat([before, own], dim=1)


def continuations_of(
    model: PreTrainedModel, tokens: Tokens, cache: DynamicCache | None, row: int
) -> CachedContinuations | PlainContinuations:
    """A document's model.

    Args:
        model: the model.
        tokens: the document's.
        cache: keys and values of a right-padded batch, if they were kept.
        row: the document's place in that batch.
    """
    ids = torch.from_numpy(tokens.ids).to(model.device)
    if cache is None:
        return PlainContinuations(model, ids)
    one, length = slice(row, row + 1), len(ids)
    layers = [(keys[one, :, :length], values[one, :, :length]) for keys, values, _ in cache]
    return CachedContinuations(model, ids, tuple(layers))


@torch.no_grad()
def shares_passes(model: PreTrainedModel) -> bool:
    """True if the model's passes over continuations equal plain ones; tried out on a probe.

    An embedding that reads the tokens before (n-grams) never shares: a cache hides them.
    """
    if getattr(model.get_input_embeddings(), "reads_neighbours", False):
        return False
    was_training = model.training
    model.eval()
    size = model.config.get_text_config().vocab_size
    ids = (1 + torch.arange(24, device=model.device) * 7) % size
    asked = [
        Continuation(5, (3 % size,)),
        Continuation(11, (9 % size, 4 % size)),
        Continuation(23, (8 % size,)),
    ]
    try:
        cache = DynamicCache()
        model.base_model(input_ids=ids[None], past_key_values=cache, use_cache=True)
        shared = continuations_of(model, Tokens(ids.cpu().numpy(), ids.cpu().numpy()), cache, 0)
        found = shared.hidden_after(asked)
        plain = PlainContinuations(model, ids).hidden_after(asked)
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        log.warning("%s: no shared pass over continuations (%s)", type(model).__name__, error)
        return False
    finally:
        model.train(was_training)
    change = float((found - plain).float().abs().mean() / plain.float().abs().mean())
    equal = change <= TOLERANCE.get(plain.dtype, 1e-3)
    if not equal:
        log.warning(
            "%s: a shared pass over continuations is off by %.1e", type(model).__name__, change
        )
    return equal


def _masks(model: PreTrainedModel, row: _Row, length: int) -> Tensor | dict[str, Tensor]:
    """Additive masks ``[1, 1, other, all]``; one for each kind of layer where there are two.

    Raises:
        ValueError: a kind of layer is not known.
    """
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or ())
    if unknown := kinds - KINDS:
        raise ValueError(f"layers of the kind {min(unknown)}; expected only {sorted(KINDS)}")
    windows = {kind: window if kind == SLIDING else None for kind in kinds}
    if len(windows) > 1:
        return {
            kind: _additive(row.visible(length, size), model.dtype)
            for kind, size in windows.items()
        }
    alone = next(iter(windows.values())) if windows else window
    return _additive(row.visible(length, alone), model.dtype)


def _additive(visible: Bool[Tensor, "other all"], dtype: torch.dtype) -> Tensor:
    hidden = torch.zeros(visible.shape, dtype=dtype, device=visible.device)
    return hidden.masked_fill(~visible, torch.finfo(dtype).min)[None, None]


def _parts(continuations: Sequence[Continuation]) -> list[Sequence[Continuation]]:
    """Consecutive continuations of at most ``TOKENS_AT_ONCE`` tokens, one at least."""
    parts, low, size = [], 0, 0
    for high, one in enumerate(continuations):
        if size and size + len(one.ids) > TOKENS_AT_ONCE:
            parts.append(continuations[low:high])
            low, size = high, 0
        size += len(one.ids)
    return [*parts, continuations[low:]]
