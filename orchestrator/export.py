"""A checkpoint as a clean folder for others: model, tokenizer, generation settings, model card.

What training needs beside (the optimizer's state, the data cursor) stays behind. Adapters are
merged, and rows of the embeddings that no token has are cut off. The new folder appears under its
name only after it was loaded and compared with the checkpoint.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from orchestrator.adapter_folder import merged_folder
from orchestrator.atomic import atomic_folder
from orchestrator.checkpoint.contents import COMPLETE, flaw_of
from orchestrator.errors import ConfigError
from orchestrator.model_card import CARD, model_card
from orchestrator.padding import RowCut, check_logits, find_padding
from orchestrator.references import output_problems
from orchestrator.student.ngram_model import MODELLING_FILE, is_buffer, make_known

WEIGHTS = ("model.safetensors", "model-*.safetensors")

WEIGHTS_INDEX = "model.safetensors.index.json"

SETTINGS = ("config.json", "generation_config.json", MODELLING_FILE)

TOKENIZER = (
    "tokenizer*",
    "tokenization_as_saved.py",
    "tekken.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "spiece.model",
    "chat_template*",
)
"""Names of files, also patterns; folders are never taken."""

PROBE = "In 2024, 3.14e10 cafe\u0301s\r\n\tnaïve 日本語 👩‍👩‍👧 for $12.50; isn't it?  x  "


@dataclass(frozen=True)
class Exported:
    """What was written."""

    folder: str
    dtype: str
    num_tensors: int
    num_parameters: int
    num_bytes: int
    num_rows_cut: int = 0


@dataclass(frozen=True)
class Change:
    """What becomes of tensors and configuration on their way.

    Args:
        dtype: number format of the weights; None leaves it.
        cut: padded rows that go; None if there are none.
    """

    dtype: str | None
    cut: RowCut | None

    def tensor(self, name: str, value: Tensor) -> Tensor:
        """A tensor as it is written."""
        kept = value if self.cut is None else self.cut.tensor(name, value)
        return kept if self.dtype is None else _cast(kept, self.dtype)

    def config(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The configuration as it is written."""
        found = dict(config) if self.cut is None else self.cut.config(config)
        return found if self.dtype is None else _with_dtype(found, self.dtype)


def export(
    checkpoint: Path, target: Path, dtype: str | None = None, *, keep_padding: bool = False
) -> Exported:
    """Write the checkpoint's model and tokenizer to a new folder that ``from_pretrained`` opens.

    Args:
        checkpoint: ``checkpoint-N`` or ``final`` of a run, any model folder, or one of peft
            adapters, which are merged into the model that they name.
        target: must not exist.
        dtype: number format of the weights, theirs by default.
        keep_padding: leave rows of the embeddings that no token has.

    Raises:
        ConfigError: there is no whole checkpoint, or what was written differs from it.
        FileExistsError: the target exists.
    """
    if problem := next(output_problems(target), None):
        raise ConfigError(f"target folder: {problem}")
    with merged_folder(checkpoint) as source:
        return _export(source, checkpoint, target, (dtype, keep_padding))


def _export(
    checkpoint: Path, given: Path, target: Path, options: tuple[str | None, bool]
) -> Exported:
    """The same from a folder of whole weights; ``given`` is what the user named."""
    files = _files(checkpoint)
    make_known(checkpoint)
    dtype, keep_padding = options
    try:
        with atomic_folder(target.absolute()) as folder:
            change = Change(dtype, None if keep_padding else _padding(checkpoint))
            for file in files:
                _copy(file, folder / file.name, change)
            _complete_settings(folder, change)
            tensors = _check(checkpoint, folder, change)
            card = model_card(given, target.name)
            (folder / CARD).write_text(card, encoding="utf-8")
    except SafetensorError as error:
        raise ConfigError(
            f"{checkpoint}: its weights cannot be read ({error}); expected whole safetensors "
            "files: export another checkpoint, or copy this one again"
        ) from error
    return Exported(
        folder=str(target.absolute()),
        dtype=", ".join(sorted({str(t.dtype).removeprefix("torch.") for t in tensors.values()})),
        num_tensors=len(tensors),
        num_parameters=sum(t.numel() for t in tensors.values()),
        num_bytes=sum(path.stat().st_size for path in target.iterdir()),
        num_rows_cut=0 if change.cut is None else change.cut.num_rows,
    )


def _files(checkpoint: Path) -> list[Path]:
    """What the new folder is made from."""
    if not checkpoint.is_dir():
        raise ConfigError(
            f"{checkpoint} is no folder; expected a checkpoint of a run, such as "
            "OUTPUT_DIR/final or OUTPUT_DIR/checkpoint-100"
        )
    if (checkpoint / COMPLETE).exists() and (flaw := flaw_of(checkpoint)) is not None:
        raise ConfigError(f"{checkpoint} is damaged: {flaw}; expected a whole checkpoint")
    groups = {
        "config.json": SETTINGS,
        "model.safetensors": (*WEIGHTS, WEIGHTS_INDEX),
        "tokenizer": TOKENIZER,
    }
    found = {what: _matching(checkpoint, patterns) for what, patterns in groups.items()}
    if missing := [f"no {what}" for what, files in found.items() if not files]:
        raise ConfigError(
            f"{checkpoint} holds {', '.join(missing)}; expected a checkpoint of a run, "
            "such as OUTPUT_DIR/final or OUTPUT_DIR/checkpoint-100"
        )
    return [file for files in found.values() for file in files]


def _matching(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    found = {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    return sorted(found)


def _padding(checkpoint: Path) -> RowCut | None:
    """The rows that no token has."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path in _matching(checkpoint, WEIGHTS):
        with safe_open(path, framework="pt") as file:
            names = [name for name in file.keys() if not is_buffer(name)]  # noqa: SIM118
            shapes |= {name: tuple(file.get_slice(name).get_shape()) for name in names}
    return find_padding(checkpoint, AutoTokenizer.from_pretrained(checkpoint), shapes)


def _copy(source: Path, target: Path, change: Change) -> None:
    if change == Change(None, None) or source.suffix != ".safetensors":
        shutil.copyfile(source, target)
        return
    tensors = {name: change.tensor(name, value) for name, value in load_file(source).items()}
    save_file(tensors, target, metadata={"format": "pt"})


def _cast(tensor: Tensor, dtype: str) -> Tensor:
    return tensor.to(getattr(torch, dtype)) if tensor.is_floating_point() else tensor


def _complete_settings(folder: Path, change: Change) -> None:
    """Correct the configuration; add generation settings if there are none."""
    if change != Change(None, None):
        path = folder / "config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps(change.config(config), indent=2) + "\n", encoding="utf-8")
        _correct_index(folder)
    if change.cut is not None:
        _correct_generation(folder, change.cut.after)
    if not (folder / "generation_config.json").is_file():
        GenerationConfig.from_model_config(AutoConfig.from_pretrained(folder)).save_pretrained(
            folder
        )


def _correct_generation(folder: Path, num_rows: int) -> None:
    """Rows that are gone need not be suppressed."""
    path = folder / "generation_config.json"
    if not path.is_file():
        return
    settings = json.loads(path.read_text(encoding="utf-8"))
    left = [index for index in settings.pop("suppress_tokens", None) or [] if index < num_rows]
    settings |= {"suppress_tokens": left} if left else {}
    path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _correct_index(folder: Path) -> None:
    """Several files of weights have an index that knows their size."""
    path = folder / WEIGHTS_INDEX
    if not path.is_file():
        return
    index = json.loads(path.read_text(encoding="utf-8"))
    tensors = [pair[1] for file in _matching(folder, WEIGHTS) for pair in _tensors(file)]
    index["metadata"] = {
        **index.get("metadata", {}),
        "total_parameters": sum(tensor.numel() for tensor in tensors),
        "total_size": sum(tensor.numel() * tensor.element_size() for tensor in tensors),
    }
    path.write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _with_dtype(config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """The configuration with its own number format, and that of its parts, replaced."""
    named = {key: dtype for key in ("dtype", "torch_dtype") if key in config}
    parts = {
        key: _with_dtype(value, dtype)
        for key, value in config.items()
        if key.endswith("_config") and isinstance(value, dict) and "dtype" in value
    }
    return {**config, **parts, **(named or {"dtype": dtype})}


def _check(checkpoint: Path, folder: Path, change: Change) -> dict[str, Tensor]:
    """Load the folder as a user would and compare it with the checkpoint; gives its tensors.

    Raises:
        ConfigError: a tensor or the tokenizer differs.
    """
    expected = dict(pair for path in _matching(checkpoint, WEIGHTS) for pair in _tensors(path))
    loading: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype="auto", output_loading_info=True
    )
    model, info = loading
    if wrong := {kind: sorted(map(str, names)) for kind, names in info.items() if names}:
        raise ConfigError(f"{checkpoint}: the weights do not fit config.json: {wrong}")
    loaded = model.state_dict()
    for name, tensor in expected.items():
        wanted = change.tensor(name, tensor)
        if name not in loaded or digest(loaded[name]) != digest(wanted):
            raise ConfigError(f"{checkpoint}: {name} differs after loading; nothing was written")
    ids = _check_tokenizer(checkpoint, folder, len(model.get_input_embeddings().weight))
    if change.cut is not None:
        check_logits(checkpoint, folder, torch.tensor([ids]), change.cut)
    return {name: loaded[name] for name in expected}


def _tensors(path: Path) -> list[tuple[str, Tensor]]:
    with safe_open(path, framework="pt") as file:
        return [(name, file.get_tensor(name)) for name in file.keys()]  # noqa: SIM118


def digest(tensor: Tensor) -> str:
    """SHA-256 of a tensor's number format, shape and content."""
    content = tensor.detach().cpu().contiguous().view(torch.uint8).numpy()
    header = f"{tensor.dtype} {tuple(tensor.shape)}".encode()
    return hashlib.sha256(header + content.tobytes()).hexdigest()


def _check_tokenizer(checkpoint: Path, folder: Path, num_rows: int) -> list[int]:
    """Compare both tokenizers on the probe; gives its ids."""
    before, after = (AutoTokenizer.from_pretrained(path) for path in (checkpoint, folder))
    ids: list[int] = before(PROBE)["input_ids"]
    if ids != after(PROBE)["input_ids"]:
        raise ConfigError(f"{checkpoint}: its tokenizer reads text differently after the copy")
    if (num_ids := max(after.get_vocab().values()) + 1) > num_rows:
        raise ConfigError(
            f"{checkpoint}: its tokenizer has {num_ids} ids, but the model only {num_rows} rows of "
            "embeddings; expected the tokenizer that the model was trained with"
        )
    return ids
