"""Toy members, and the next byte by enumeration of all segmentations."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer as FastTokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast

from losses.byte_distributions import floored
from orchestrator.ensembling import EnsembleMember
from orchestrator.ensembling.ends import end_ids
from teachers.backends.transformers import LanguageModel
from teachers.tokenizer import Tokenizer

MERGES = [("h", "e"), ("l", "l"), ("Ġ", "w"), ("o", "Ġw"), ("ll", "o"), ("he", "ll"), ("e", "l")]


def small_fast(merges: list[tuple[str, str]], **names: str) -> PreTrainedTokenizerFast:
    """Byte-level tokens of all 256 bytes and a few merges, with two special tokens."""
    pieces = sorted(ByteLevel.alphabet()) + ["".join(pair) for pair in MERGES if pair in merges]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    backend = FastTokenizer(BPE(vocabulary, merges))
    backend.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = ByteLevelDecoder()
    backend.add_special_tokens(["<|endoftext|>", "<|im_end|>"])
    names = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"} | names
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


@pytest.fixture(scope="session")
def small_tokenizers() -> dict[str, Tokenizer]:
    """Three unlike vocabularies: with merges, with fewer, and plain bytes."""
    merges = {"words": MERGES, "pairs": MERGES[:3], "bytes": []}
    return {name: Tokenizer(small_fast(found), name) for name, found in merges.items()}


@pytest.fixture(scope="session")
def member(
    tiny_model: Callable[..., Any], small_tokenizers: dict[str, Tokenizer]
) -> Callable[..., EnsembleMember]:
    """Build a member: a tiny model with one of the small tokenizers."""

    def build(name: str, weight: float = 1.0, seed: int = 0, **more: Any) -> EnsembleMember:
        tokenizer = small_tokenizers[name]
        options = {"architecture": "llama", "initializer_range": 0.2} | more
        model = tiny_model(vocab_size=len(tokenizer.vocabulary), seed=seed, **options)
        return EnsembleMember(f"{name}{seed}", LanguageModel.wrap(model, tokenizer), weight)

    return build


@pytest.fixture(scope="session")
def fast_of() -> Callable[..., PreTrainedTokenizerFast]:
    """See ``small_fast``."""
    return small_fast


@pytest.fixture(scope="session")
def all_merges() -> list[tuple[str, str]]:
    return list(MERGES)


@pytest.fixture(scope="session")
def token_probs() -> Callable[..., torch.Tensor]:
    """See ``next_token_probs``."""
    return next_token_probs


@pytest.fixture(scope="session")
def enumeration() -> Callable[..., torch.Tensor]:
    """See ``enumerated``."""
    return enumerated


@torch.no_grad()
def next_token_probs(model: LanguageModel, ids: list[int]) -> torch.Tensor:
    """By a plain pass over all ids."""
    logits = model.model(input_ids=torch.tensor([ids])).logits[0, -1]
    return logits[: len(model.tokenizer.vocabulary)].double().softmax(-1)


def enumerated(model: LanguageModel, start: list[int], text: bytes) -> torch.Tensor:
    """Log-probabilities of the next byte or end, over every segmentation of the text."""
    vocabulary = model.tokenizer.vocabulary
    masses, ends = np.zeros(257), list(end_ids(model))

    def follow(ids: list[int], rest: bytes, chance: float) -> None:
        probs = next_token_probs(model, ids)
        if not rest:
            masses[256] += chance * float(probs[ends].sum())
        for index, content in enumerate(vocabulary.token_bytes):
            if not content:
                continue
            if content.startswith(rest) and len(content) > len(rest):
                masses[content[len(rest)]] += chance * float(probs[index])
            elif rest.startswith(content):
                follow([*ids, index], rest[len(content) :], chance * float(probs[index]))

    follow(start, text, 1.0)
    return floored(torch.from_numpy(masses)[None])[0]
