"""``tutelage validate``: everything but the weights."""

from collections.abc import Collection, Iterator, Mapping

from orchestrator.config import RunConfig
from orchestrator.data import Prepared
from orchestrator.lora_check import check_lora
from orchestrator.references import find_references, how_to_fetch, refuse
from orchestrator.setup import (
    STUDENT,
    Split,
    check_methods,
    describe,
    doubts_about,
    load_tokenizers,
    prepared,
    read_split,
)
from orchestrator.signal_cache.check import check_cached_text, describe_caches
from teachers.sealing import unsealed
from teachers.tokenizer import Tokenizer

SPLITS: tuple[Split, ...] = ("train", "validation", "held_out")


def validate(config: RunConfig, *, strict: bool = False) -> Iterator[str]:
    """Lines that say what the run would use; the first problem is raised.

    Assets that are not fetched yet are told, and all that does not need them is checked.

    Args:
        config: the run.
        strict: refuse what else is only warned of.

    Raises:
        ConfigError: something is wrong; names its place in the run file.
    """
    found = find_references(config)
    warnings = [how_to_fetch(reference) for reference in found.unfetched]
    refuse([*found.problems, *(warnings if strict else [])])
    left_out = {reference.place for reference in found.unfetched}
    tokenizers, doubts = load_tokenizers(config, left_out)
    refuse(doubts if strict else [])
    for warning in [*warnings, *doubts]:
        yield f"warning: {warning}"
    check_methods(config, tokenizers)
    if "student.init" not in left_out:
        check_lora(config)
    for tokenizer in tokenizers.values():
        yield _describe_tokenizer(tokenizer)
    yield from describe_caches(config)
    splits = {split: _read(config, split, tokenizers, left_out) for split in SPLITS}
    _check_cached(config, tokenizers, splits)
    doubts = _doubts(config, tokenizers, splits)
    refuse(doubts if strict else [])
    for warning in doubts:
        yield f"warning: {warning}"
    for split, documents in splits.items():
        yield from _describe_split(config, split, documents, tokenizers)


def _read(
    config: RunConfig,
    split: Split,
    tokenizers: Mapping[str, Tokenizer],
    left_out: Collection[str],
) -> Prepared | int:
    """The split, or only its number of documents where the student is not there to cut them."""
    documents = read_split(config, split, left_out)
    if not documents or STUDENT not in tokenizers:
        return len(documents)
    return prepared(config, split, documents, list(tokenizers.values()))


def _check_cached(
    config: RunConfig,
    tokenizers: Mapping[str, Tokenizer],
    splits: Mapping[Split, Prepared | int],
) -> None:
    train, held_out = splits["train"], splits["held_out"]
    if isinstance(train, Prepared) and isinstance(held_out, Prepared):
        student = tokenizers[STUDENT]
        check_cached_text(config, student, train.documents, held_out.documents)


def _doubts(
    config: RunConfig,
    tokenizers: Mapping[str, Tokenizer],
    splits: Mapping[Split, Prepared | int],
) -> list[str]:
    train, held_out = splits["train"], splits["held_out"]
    if isinstance(train, int) or isinstance(held_out, int):
        return []
    return doubts_about(config, tokenizers[STUDENT], train, held_out)


def _describe_tokenizer(tokenizer: Tokenizer) -> str:
    start = tokenizer.start_id
    shown = "none" if start is None else unsealed(str(tokenizer.backend.id_to_token(start)))
    return (
        f"{tokenizer.name}: {len(tokenizer.vocabulary):,} ids, start token {shown}, "
        f"{tokenizer.chat.description}"
    )


def _describe_split(
    config: RunConfig,
    split: Split,
    documents: Prepared | int,
    tokenizers: Mapping[str, Tokenizer],
) -> Iterator[str]:
    name = split.replace("_", " ")
    if isinstance(documents, int):
        if documents:
            yield f"{name}: {documents} documents; not cut, the student is not fetched yet"
        return
    yield f"{name}: {describe(documents, list(tokenizers))}"
    if split == "train":
        yield _describe_steps(config, len(documents.documents))


def _describe_steps(config: RunConfig, num_documents: int) -> str:
    used = config.train.max_steps * config.train.global_batch
    return (
        f"{config.train.max_steps} steps of {config.train.global_batch} documents: "
        f"{used / num_documents:.2f} epochs"
    )
