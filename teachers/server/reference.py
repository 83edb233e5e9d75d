"""What a server is compared with: the same weights, loaded once, or a sample of what they said."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from safetensors.numpy import load_file, save_file

from losses.alignment.tokens import Tokens
from losses.document import Document
from losses.prediction import Prediction
from losses.signals import pack
from teachers.backends.transformers import LanguageModel
from teachers.server.prompt import Prompt
from teachers.source import ModelSource
from teachers.tokenizer import Tokenizer


@dataclass(frozen=True)
class Known:
    """A prompt and the log-probability (nats) of each of its tokens, NaN where it has none."""

    prompt: Prompt
    logprob: Float32[np.ndarray, "token"]


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


@dataclass(frozen=True)
class Sample:
    """What the weights said of some prompts, once, kept in a safetensors file.

    Args:
        entries: the prompts and their log-probabilities.
        fingerprint: of the tokenizer that made the prompts.
    """

    entries: tuple[Known, ...]
    fingerprint: str

    def known(self, prompts: Sequence[Prompt]) -> list[Known]:
        """The sample's own prompts."""
        return list(self.entries)

    @classmethod
    def record(
        cls, source: ModelSource, documents: Sequence[Document], device: str = "cpu"
    ) -> "Sample":
        """What the weights of ``source`` say of some documents."""
        tokenizer = Tokenizer.load(source, source.path)
        views = zip(documents, tokenizer.encode(documents), strict=True)
        prompts = [Prompt(document.name, view.ids) for document, view in views]
        found = OwnWeights(source, tokenizer, device).known(prompts)
        return cls(tuple(found), tokenizer.fingerprint)

    def save(self, path: Path) -> None:
        """Write the file."""
        names = "\n".join(entry.prompt.name for entry in self.entries)
        tensors = {
            "ids": np.concatenate([entry.prompt.ids for entry in self.entries]),
            "logprob": np.concatenate([entry.logprob for entry in self.entries]),
            "lengths": np.array([len(entry.logprob) for entry in self.entries], dtype=np.int64),
            "names": _bytes(names),
            "fingerprint": _bytes(self.fingerprint),
        }
        save_file(tensors, path)

    @classmethod
    def load(cls, path: Path, tokenizer: Tokenizer) -> "Sample":
        """Read the file.

        Raises:
            ValueError: it is no sample, or another tokenizer made its prompts.
        """
        tensors = load_file(path)
        if missing := {"ids", "logprob", "lengths", "names", "fingerprint"} - tensors.keys():
            raise ValueError(
                f"{path} is no recorded sample: it lacks {', '.join(sorted(missing))}; expected a "
                "file that Sample.save wrote"
            )
        fingerprint = tensors["fingerprint"].tobytes().decode()
        if fingerprint != tokenizer.fingerprint:
            raise ValueError(
                f"{path} was recorded with another tokenizer ({fingerprint[:12]}, not "
                f"{tokenizer.fingerprint[:12]}), template or start token than teacher "
                f"{tokenizer.name} has; record it again"
            )
        ends = np.cumsum(tensors["lengths"])[:-1]
        parts = [np.split(tensors[key], ends) for key in ("ids", "logprob")]
        names = tensors["names"].tobytes().decode().split("\n")
        entries = [
            Known(Prompt(name, ids), logprob)
            for name, ids, logprob in zip(names, *parts, strict=True)
        ]
        return cls(tuple(entries), fingerprint)


def reference_of(
    parity: ModelSource | Path | None, tokenizer: Tokenizer, device: str
) -> Reference | None:
    """What a run file names as ``model_parity``: weights, or the file of a sample."""
    if isinstance(parity, ModelSource):
        return OwnWeights(parity, tokenizer, device)
    return None if parity is None else Sample.load(parity, tokenizer)


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


def _bytes(text: str) -> UInt8[np.ndarray, "byte"]:
    return np.frombuffer(text.encode(), dtype=np.uint8)
