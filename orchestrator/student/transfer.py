"""A model gets another tokenizer: new rows in its embeddings, nothing else changes.

Training then starts from rows that say what the old ones said, as far as that can be told without
any text ("zero-shot"). See docs/transfer.md.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from orchestrator.student.byte_tokenizer import is_bytes
from orchestrator.student.embeddings.options import EmbeddingOptions
from orchestrator.student.embeddings.row_mixture import RowMixture
from orchestrator.student.embeddings.rows import mixture_of
from orchestrator.student.embeddings.vocabulary_pair import VocabularyPair
from orchestrator.student.ngram_model import add_ngrams, has_ngrams
from orchestrator.student.special_roles import pair_specials
from orchestrator.student.vocabulary_rows import (
    MULTIPLE,
    VocabularyRows,
    embedding_modules,
    set_rows,
)
from teachers.inside import encode_inside
from teachers.model_config import SPECIAL_IDS
from teachers.tokenizer import Tokenizer

log = logging.getLogger(__name__)

OTHER_IDS = (
    "bad_words_ids",
    "begin_suppress_tokens",
    "decoder_start_token_id",
    "force_words_ids",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "sequence_bias",
)
"""Generation settings that name tokens by their ids and have no role to follow."""


@dataclass(frozen=True)
class TransferReport:
    """How many new rows came about in which way.

    Args:
        num_ids: ids of the new tokenizer.
        num_rows: the same with padding.
        copied: tokens whose bytes an old token has.
        combined: tokens that are a mean of old ones, or predicted.
        special: special tokens that took an old one's place.
        filled: ids that no old row says anything about.
        tied: whether input and output share rows.
        warnings: what is lost, in sentences.
    """

    num_ids: int
    num_rows: int
    copied: int
    combined: int
    special: int
    filled: int
    tied: bool
    warnings: tuple[str, ...]


def transfer(
    model: PreTrainedModel,
    source: Tokenizer,
    target: Tokenizer,
    options: EmbeddingOptions,
    seed: int = 0,
    multiple: int = MULTIPLE,
) -> TransferReport:
    """Replace the model's input and output embeddings in place.

    Args:
        model: with the embeddings of ``source``.
        source: the model's own tokenizer.
        target: the new one; with special tokens of ``init``, as ``student_tokenizer`` makes it.
        options: how new rows come about.
        seed: of rows that are drawn at random.
        multiple: the number of rows is padded to a multiple of it; 1 pads none.

    Raises:
        ValueError: the model's embeddings cannot be exchanged, or an option does not fit.
    """
    bytes_only = is_bytes(target.vocabulary)
    if options.ngrams:
        options.check_bytes(bytes_only)
    if has_ngrams(model):
        raise ValueError(
            f"{type(model).__name__} has n-gram embeddings, which belong to its byte tokenizer; "
            "expected a model without them, such as the one that it was made from"
        )
    rows = VocabularyRows.of(model, len(source.vocabulary))
    pair = vocabulary_pair(source, target)
    specials = pair_specials(source, target)
    for warning in specials.warnings:
        log.warning("%s", warning)
    mixture = mixture_of(options.init, pair, specials.old)
    made = _made(rows, mixture, len(source.vocabulary), seed)
    if options.init == "hypernetwork":
        made = _predicted(model, made, options.hypernetwork, source, target)
    untied = bytes_only if options.untie is None else options.untie
    if made.is_tied and untied:
        made = VocabularyRows(made.read, made.read.clone(), made.bias)
    set_rows(model, made, len(target.vocabulary), multiple)
    _set_ids(model, target, specials.old)
    if options.ngrams:
        add_ngrams(model, rows.read[: len(source.vocabulary)], pair, specials.old)
    predicted = options.init == "hypernetwork"
    return TransferReport(
        num_ids=len(target.vocabulary),
        num_rows=len(embedding_modules(model)[0].weight),
        tied=made.is_tied,
        warnings=specials.warnings,
        **_counts(mixture, pair, len(specials.old), predicted=predicted),
    )


def vocabulary_pair(source: Tokenizer, target: Tokenizer) -> VocabularyPair:
    """Both vocabularies, and how both tokenizers cut a text inside a document."""
    return VocabularyPair(
        source.vocabulary,
        target.vocabulary,
        partial(encode_inside, source),
        partial(encode_inside, target),
    )


def _made(rows: VocabularyRows, mixture: RowMixture, num_valid: int, seed: int) -> VocabularyRows:
    """The same mixture for all rows; where the model ties them, drawn rows are tied too."""

    def apply(table: Float[Tensor, "source width"], offset: int) -> Float[Tensor, "target width"]:
        return mixture.apply(table, num_valid, seed + offset)

    return VocabularyRows(
        apply(rows.read, 0),
        None if rows.write is None else apply(rows.write, 1),
        None if rows.bias is None else apply(rows.bias[:, None], 2)[:, 0],
    )


def _predicted(
    model: PreTrainedModel,
    made: VocabularyRows,
    folder: str | None,
    source: Tokenizer,
    target: Tokenizer,
) -> VocabularyRows:
    """A hypernetwork's rows for every token that has bytes."""
    from orchestrator.hypernetwork.rows import predict_rows, source_rows

    own = source_rows(model, len(source.vocabulary))
    stacked = predict_rows(Path(folder or ""), own, source, target.vocabulary)
    has_bytes = torch.tensor([bool(content) for content in target.vocabulary.token_bytes])
    read, write = stacked[:, 0].to(made.read), stacked[:, -1].to(made.read)
    chosen = has_bytes.to(made.read.device)[:, None]
    return VocabularyRows(
        torch.where(chosen, read, made.read),
        None if made.write is None else torch.where(chosen, write, made.write),
    )


def _set_ids(model: PreTrainedModel, target: Tokenizer, old: Mapping[int, int]) -> None:
    """The ids that the configuration and the generation settings name."""
    fast = target.fast
    own = dict(
        zip(SPECIAL_IDS, (fast.bos_token_id, fast.eos_token_id, fast.pad_token_id), strict=True)
    )
    parts = [model.config, model.config.get_text_config(), model.generation_config]
    for part in {id(part): part for part in parts if part is not None}.values():
        for name in SPECIAL_IDS:
            setattr(part, name, _renamed(getattr(part, name, None), old, own[name]))
    if model.generation_config is not None:
        _drop_other_ids(model.generation_config)
    read, _ = embedding_modules(model)
    if read.padding_idx is not None:
        read.padding_idx = model.config.get_text_config().pad_token_id


def _drop_other_ids(settings: GenerationConfig) -> None:
    """Leave out what names ids of the old tokenizer: they stand for other tokens now."""
    if named := [name for name in OTHER_IDS if getattr(settings, name, None) is not None]:
        log.warning(
            "the generation settings %s name tokens of the old tokenizer; they are left out",
            ", ".join(named),
        )
    for name in named:
        setattr(settings, name, None)


def _renamed(
    value: int | list[int] | None, old: Mapping[int, int], own: int | None
) -> int | list[int] | None:
    """The new ids of what a configuration named; the tokenizer's own first.

    >>> old = {5: 1, 6: 1, 7: 2}  # new -> old
    >>> _renamed(1, old, 6), _renamed(2, old, 6), _renamed(None, old, None)
    (6, 7, None)
    >>> _renamed([1, 2, 3], old, 6), _renamed(None, old, 9)
    ([6, 7], 9)
    """
    values = value if isinstance(value, list) else [value]
    kept = [own] if own is not None and own in old and old[own] in values else []
    taken = {old[index] for index in kept}
    kept += [new for new, before in old.items() if before in values and before not in taken]
    if isinstance(value, list):
        return kept or own
    return kept[0] if kept else own


def _counts(
    mixture: RowMixture, pair: VocabularyPair, num_specials: int, *, predicted: bool
) -> dict[str, int]:
    """How many rows came about in which way; a hypernetwork predicts all that have bytes."""
    has_bytes = sum(bool(content) for content in pair.target.token_bytes)
    copied = 0 if predicted else len(pair.overlap.copied)
    known = has_bytes + num_specials if predicted else int((~mixture.is_empty).sum())
    return {
        "copied": copied,
        "combined": known - copied - num_specials,
        "special": num_specials,
        "filled": len(pair.target) - known,
    }
