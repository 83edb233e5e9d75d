"""What a server is compared with: the same weights, loaded once, or a sample of what they said."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float32

from losses.alignment.tokens import Tokens
from losses.document import Document
from losses.prediction import Prediction
from losses.signals import pack
from teachers.backends.transformers import LanguageModel
from teachers.server.prompt import Known, Prompt
from teachers.server.sample import Sample
from teachers.source import ModelSource
from teachers.tokenizer import Tokenizer


@runtime_checkable
class Reference(Protocol):
    """Somebody who knows what the server should say."""

    def known(self, prompts: Sequence[Prompt]) -> list[Known]:
        """What should be said of these prompts, or of others in their place."""


@dataclass(frozen=True)
class OwnWeights:
    """The same weights in a folder or on the hub; they are loaded when they are asked, then freed.

    Args:
        source: the weights.
        tokenizer: the teacher's.
        device: where they are loaded.
    """

    source: ModelSource
    tokenizer: Tokenizer
    device: str = "cpu"

    def known(self, prompts: Sequence[Prompt]) -> list[Known]:
        """What these weights say of the prompts, one forward pass each."""
        model = LanguageModel.load(self.source, self.tokenizer, self.device)
        model.model.eval()
        return [Known(prompt, logprobs_of(model, prompt)) for prompt in prompts]


def reference_of(
    parity: ModelSource | Path | None, tokenizer: Tokenizer, device: str
) -> Reference | None:
    """What a run file names as ``model_parity``: weights, or the file of a sample."""
    if isinstance(parity, ModelSource):
        return OwnWeights(parity, tokenizer, device)
    return None if parity is None else Sample.load(parity, tokenizer)


def record_sample(
    source: ModelSource, documents: Sequence[Document], device: str = "cpu"
) -> Sample:
    """What the weights of ``source`` say of some documents."""
    tokenizer = Tokenizer.load(source, source.path)
    views = zip(documents, tokenizer.encode(documents), strict=True)
    prompts = [Prompt(document.name, view.ids) for document, view in views]
    found = OwnWeights(source, tokenizer, device).known(prompts)
    return Sample(tuple(found), tokenizer.fingerprint)


@torch.no_grad()
def logprobs_of(model: LanguageModel, prompt: Prompt) -> Float32[np.ndarray, "token"]:
    """Log-probability (nats) of each token given those before; NaN for the first."""
    tokens = Tokens(prompt.ids, np.full(len(prompt.ids), -1, dtype=np.int64))
    found = np.full(len(tokens), np.nan, dtype=np.float32)
    if len(tokens) < 2:
        return found
    [hidden] = model.hidden_states([tokens])
    prediction = Prediction(
        tokens=tokens,
        hidden=hidden,
        head=model.head,
        vocabulary=model.tokenizer.vocabulary,
        scored=(torch.arange(len(tokens)) > 0).to(hidden.device),
        elements_in_memory=model.elements_in_memory,
    )
    found[1:] = pack(prediction.logprob_of_scored().float())
    return found
