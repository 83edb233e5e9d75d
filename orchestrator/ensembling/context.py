"""What a member has read so far, and what is kept of it."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from transformers import DynamicCache

from losses.alignment.tokens import Tokens
from losses.continuations import Continuations
from losses.prediction import Prediction
from teachers.backends.continuations import (
    CachedContinuations,
    KeysAndValues,
    PlainContinuations,
)
from teachers.backends.transformers import LanguageModel


class Context:
    """The tokens a model has read, their hidden states, and keys and values to go on from.

    Args:
        model: in evaluation mode.
        ids: read at once, one at least.
        use_cache: keep keys and values; otherwise, and for a model whose cache cannot be shared,
            all tokens are read again at each step.

    Raises:
        ValueError: there is no token, or more than the model can read.
    """

    def __init__(self, model: LanguageModel, ids: Sequence[int], *, use_cache: bool = True) -> None:
        if not ids:
            raise ValueError(f"{model.tokenizer.name} was given no token to read; expected one")
        self.model = model
        self.ids: Int64[np.ndarray, "token"] = np.zeros(0, dtype=np.int64)
        self._keeps = use_cache and model.keeps_caches
        self._hidden: list[Tensor] = []
        self._cache: KeysAndValues = ()
        self.extend(ids)

    @property
    def hidden(self) -> Float[Tensor, "token hidden"]:
        """Final-norm hidden states of all tokens."""
        if len(self._hidden) > 1:
            self._hidden = [torch.cat(self._hidden)]
        return self._hidden[0]

    @property
    def last(self) -> Float[Tensor, "1 hidden"]:
        """Of the last token."""
        return self._hidden[-1][-1:]

    @property
    def room(self) -> int | None:
        """How many more tokens the model can read; None: no limit is known."""
        limit = getattr(self.model.model.config.get_text_config(), "max_position_embeddings", None)
        return None if limit is None else int(limit) - len(self.ids)

    @torch.no_grad()
    def extend(self, ids: Sequence[int]) -> None:
        """Read more tokens.

        Raises:
            ValueError: they are more than the model can read.
        """
        if not ids:
            return
        if self.room is not None and len(ids) > self.room:
            raise ValueError(
                f"{self.model.tokenizer.name} reads at most {len(self.ids) + self.room} tokens and "
                f"was given {len(self.ids) + len(ids)}; use a shorter prompt"
            )
        before, self.ids = len(self.ids), np.append(self.ids, np.array(ids, dtype=np.int64))
        if not self._keeps:
            self._hidden = [self._read(self.ids)]
            return
        cache = DynamicCache(self._cache) if before else DynamicCache()
        self._hidden.append(self._read(self.ids[before:], cache))
        self._cache = tuple((keys, values) for keys, values, _ in cache)

    def crop(self, length: int) -> None:
        """Forget all tokens from this place on; one at least stays."""
        self.ids = self.ids[:length].copy()
        self._hidden = [self.hidden[:length]]
        self._cache = tuple((k[:, :, :length], v[:, :, :length]) for k, v in self._cache)

    def prediction(self) -> Prediction:
        """What the model says after each token; none of them is scored."""
        return Prediction(
            tokens=Tokens(self.ids, np.full(len(self.ids), -1)),
            hidden=self.hidden,
            head=self.model.head,
            vocabulary=self.model.tokenizer.vocabulary,
            scored=torch.zeros(len(self.ids), dtype=torch.bool, device=self.model.device),
        )

    def continuations(self) -> Continuations:
        """What the model says after some of these tokens and others."""
        ids = torch.from_numpy(self.ids).to(self.model.device)
        if self._keeps:
            return CachedContinuations(self.model.model, ids, self._cache)
        return PlainContinuations(self.model.model, ids)

    def _read(
        self, ids: Int64[np.ndarray, "new"], cache: DynamicCache | None = None
    ) -> Float[Tensor, "new hidden"]:
        output = self.model.model.base_model(
            input_ids=torch.from_numpy(ids)[None].to(self.model.device),
            past_key_values=cache,
            use_cache=cache is not None,
        )
        states: Tensor = output.last_hidden_state[0]
        return states
