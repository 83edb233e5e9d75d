"""What weights said of some prompts, once, kept in a file; reading it loads no model."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from teachers.server.prompt import Known, Prompt
from teachers.tokenizer import Tokenizer


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
            ValueError: it is damaged or no sample, or another tokenizer made its prompts.
        """
        try:
            tensors = load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged, or no safetensors file: {error}") from error
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


def _bytes(text: str) -> UInt8[np.ndarray, "byte"]:
    return np.frombuffer(text.encode(), dtype=np.uint8)
