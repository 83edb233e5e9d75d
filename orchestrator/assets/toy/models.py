"""Toy Llamas in float32: a seeded random start and a few seconds of plain cross-entropy."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WINDOW_TOKENS = 64
BATCH_WINDOWS = 8
LEARNING_RATE = 8e-3


def random_llama(
    tokenizer: PreTrainedTokenizerFast, *, layers: int, hidden: int, seed: int
) -> LlamaForCausalLM:
    """Build a Llama with seeded random weights for a tokenizer's vocabulary."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=hidden**-0.5,  # learns twice as fast at this width as with 0.02
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: LlamaForCausalLM = LlamaForCausalLM(config)
    return model


def train_briefly(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    texts: Sequence[str],
    *,
    steps: int,
    seed: int,
    windows: int = BATCH_WINDOWS,
) -> None:
    """Train ``model`` in place by cross-entropy, on random windows of the joined texts a step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=max(steps, 2), pct_start=0.2
    )
    stream = _token_stream(tokenizer, texts)
    generator = torch.Generator().manual_seed(seed)
    model.train()
    with _one_thread():
        for _ in range(steps):
            _step(model, optimizer, _windows(stream, windows, generator))
            schedule.step()
    model.eval()


def _token_stream(
    tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]
) -> Int[Tensor, " token"]:
    """Join all documents, each closed by the end-of-text token."""
    ids = [[*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in texts]
    return torch.tensor([token for document in ids for token in document])


def _windows(
    stream: Int[Tensor, " token"], count: int, generator: torch.Generator
) -> Int[Tensor, "batch window"]:
    starts = torch.randint(len(stream) - WINDOW_TOKENS, (count, 1), generator=generator)
    return stream[starts + torch.arange(WINDOW_TOKENS + 1)]


def _step(
    model: LlamaForCausalLM, optimizer: torch.optim.Optimizer, ids: Int[Tensor, "batch window"]
) -> None:
    logits = model(input_ids=ids[:, :-1]).logits
    loss = cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Use one thread, for reproducible sums and quiet neighbours, then restore the number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
