"""Whether the recorded sample that a served teacher is compared with can be read."""

from pathlib import Path

from orchestrator.config import TeacherConfig
from orchestrator.errors import ConfigError
from orchestrator.sources import is_sample
from teachers.server.sample import Sample
from teachers.tokenizer import Tokenizer


def check_sample(place: str, teacher: TeacherConfig, tokenizer: Tokenizer) -> None:
    """Refuse a sample that is damaged, or was recorded with another tokenizer.

    Args:
        place: YAML path of the key that names it.
        teacher: any; one without a sample passes.
        tokenizer: the teacher's.

    Raises:
        ConfigError: names the place.
    """
    reference = teacher.model_parity
    if reference is None or not is_sample(reference):
        return
    try:
        Sample.load(Path(reference).expanduser().absolute(), tokenizer)
    except ValueError as error:
        raise ConfigError(f"{place}: {error}") from error
