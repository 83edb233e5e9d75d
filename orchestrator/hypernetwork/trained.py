"""A trained hypernetwork in a folder: ``hypernetwork.safetensors`` and ``hypernetwork.json``."""

import json
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from orchestrator.atomic import atomic_write_text
from orchestrator.errors import ConfigError
from orchestrator.hypernetwork.config import NetworkConfig
from orchestrator.hypernetwork.network import Hypernetwork
from teachers.tokenizer import Tokenizer

WEIGHTS = "hypernetwork.safetensors"
DESCRIPTION = "hypernetwork.json"
FORMAT = 1


@dataclass(frozen=True)
class TrainedHypernetwork:
    """A network and what it was trained for.

    Args:
        network: the network.
        model: the frozen model, as the file named it.
        vocabulary: fingerprint of the model's own vocabulary.
        num_steps: optimiser steps done.
    """

    network: Hypernetwork
    model: str
    vocabulary: str
    num_steps: int

    def check(self, rows: Float[Tensor, "vocab stack hidden"], source: Tokenizer) -> None:
        """Refuse a model that the hypernetwork was not trained for.

        Raises:
            ValueError: another vocabulary, or rows of another shape.
        """
        self.check_tokenizer(source)
        expected = (self.network.num_stacked, self.network.hidden)
        if tuple(rows.shape[1:]) != expected:
            raise ValueError(
                f"the hypernetwork predicts rows of shape {expected} (stacked, hidden), the model "
                f"has {tuple(rows.shape[1:])}; train a hypernetwork for this model"
            )

    def check_tokenizer(self, source: Tokenizer) -> None:
        """Refuse a model with another tokenizer; no weight of the model is needed for it.

        Raises:
            ValueError: another vocabulary.
        """
        if source.vocabulary.fingerprint != self.vocabulary:
            raise ValueError(
                f"the hypernetwork was trained for the tokenizer of {self.model}; the vocabulary "
                f"of {source.name} is another one; train a hypernetwork for this model"
            )

    def save(self, folder: Path) -> None:
        """Write both files into a folder that exists."""
        weights = {k: v.detach().cpu().contiguous() for k, v in self.network.state_dict().items()}
        save_file(weights, folder / WEIGHTS)
        description = {
            "format": FORMAT,
            "model": self.model,
            "vocabulary": self.vocabulary,
            "num_steps": self.num_steps,
            "num_stacked": self.network.num_stacked,
            "hidden": self.network.hidden,
            "network": self.network.options.model_dump(mode="json"),
        }
        atomic_write_text(folder / DESCRIPTION, json.dumps(description, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "TrainedHypernetwork":
        """Read a folder: ``final`` or ``checkpoint-N`` of a hypernetwork's training.

        Raises:
            ConfigError: it holds none, or a damaged one.
        """
        try:
            found = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
            if found["format"] != FORMAT:
                raise ValueError(f"format {found['format']}, this release reads {FORMAT}")
            options = NetworkConfig.model_validate(found["network"])
            network = Hypernetwork(options, found["num_stacked"], found["hidden"])
            network.load_state_dict(load_file(folder / WEIGHTS))
            return cls(network, found["model"], found["vocabulary"], found["num_steps"])
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ConfigError(
                f"{folder} holds no hypernetwork ({Path(error.filename).name} is missing); "
                "expected OUTPUT_DIR/final of `tutelage hypernet train`"
            ) from error
        except (KeyError, ValueError, RuntimeError, SafetensorError, ValidationError) as error:
            raise ConfigError(
                f"{folder}: the hypernetwork cannot be read ({error}); copy or train it again"
            ) from error
