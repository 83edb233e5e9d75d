"""Whether the run file's adapters find their layers, told before any weight is loaded.

What reads models is imported only where there are adapters: that takes seconds.
"""

from orchestrator.config import RunConfig
from orchestrator.errors import ConfigError
from orchestrator.sources import student_source


def check_lora(config: RunConfig) -> None:
    """Lay ``student.lora.target_modules`` beside the modules of the student's model.

    Raises:
        ConfigError: a target is no linear layer of it.
    """
    lora = config.student.lora
    if lora is None:
        return
    from orchestrator.student.adapters import absent_targets, how_absent, model_without_weights

    try:
        model = model_without_weights(student_source(config.student))
    except (OSError, ValueError) as error:
        raise ConfigError(f"student.init: its configuration cannot be read: {error}") from error
    if absent := absent_targets(model, lora.target_modules):
        raise ConfigError(f"student.lora.target_modules: {how_absent(model, absent)}")
