"""``tutelage hypernet apply``: a model with another tokenizer, its rows predicted, as a folder."""

from pathlib import Path
from typing import Literal

from orchestrator.config import StudentConfig
from orchestrator.config.embeddings import EmbeddingsConfig
from orchestrator.hypernetwork.trained import TrainedHypernetwork
from orchestrator.references import output_problems, refuse
from orchestrator.zero_shot import ZeroShot, write_student


def apply_hypernetwork(
    hypernetwork: Path,
    model: str,
    tokenizer: str,
    target: Path,
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> ZeroShot:
    """Write the model with the other tokenizer to a new folder that ``from_pretrained`` opens.

    The same as ``tutelage transfer`` of a run file with these three under ``student``; special
    tokens and the chat template stay the model's own.

    Args:
        hypernetwork: ``final`` or ``checkpoint-N`` of a training for this model.
        model: a folder, a hub id or ``asset:NAME``.
        tokenizer: ``bytes``, or whose tokenizer the model gets.
        target: must not exist.
        dtype: number format of the weights.

    Raises:
        ConfigError: something that is named does not fit.
        FileExistsError: the target exists.
        ValueError: the hypernetwork was trained for another model.
    """
    folder = target.expanduser().absolute()
    if folder.exists():
        raise FileExistsError(f"{folder} exists already; expected a new name, or remove it")
    refuse([f"target folder: {text}" for text in output_problems(folder)])
    TrainedHypernetwork.load(hypernetwork)  # a wrong folder is told before weights are read
    embeddings = EmbeddingsConfig(init="hypernetwork", hypernetwork=str(hypernetwork.absolute()))
    student = StudentConfig(init=model, tokenizer=tokenizer, embeddings=embeddings, dtype=dtype)
    return write_student(student, folder)
