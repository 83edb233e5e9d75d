"""``tutelage validate``: everything but the weights."""

from collections.abc import Iterator

from orchestrator.config import RunConfig
from orchestrator.setup import Setup, describe, set_up
from teachers.tokenizer import Tokenizer


def validate(config: RunConfig) -> Iterator[str]:
    """Lines that say what the run would use; the first problem is raised.

    Raises:
        ConfigError: something is wrong; names its place in the run file.
    """
    setup = set_up(config)
    for tokenizer in setup.tokenizers:
        yield _describe_tokenizer(tokenizer)
    names = [tokenizer.name for tokenizer in setup.tokenizers]
    yield f"train: {describe(setup.train, names)}"
    yield f"held out: {describe(setup.held_out, names)}"
    yield _describe_steps(config, setup)


def _describe_tokenizer(tokenizer: Tokenizer) -> str:
    start = tokenizer.start_id
    shown = "none" if start is None else tokenizer.fast.convert_ids_to_tokens(start)
    return f"{tokenizer.name}: {len(tokenizer.vocabulary):,} ids, start token {shown}"


def _describe_steps(config: RunConfig, setup: Setup) -> str:
    used = config.train.max_steps * config.train.global_batch
    epochs = used / len(setup.train.documents)
    return (
        f"{config.train.max_steps} steps of {config.train.global_batch} documents: "
        f"{epochs:.2f} epochs"
    )
