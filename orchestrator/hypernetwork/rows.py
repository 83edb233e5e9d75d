"""Rows of a vocabulary that the model never saw, from a hypernetwork trained for the model."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from transformers import PreTrainedModel

from losses.alignment.vocabulary import Vocabulary
from orchestrator.hypernetwork.network import Hypernetwork
from orchestrator.hypernetwork.pieces import Pieces, Speller
from orchestrator.hypernetwork.trained import TrainedHypernetwork
from teachers.tokenizer import Tokenizer

PIECES_AT_ONCE = 8192
"""Pieces that go through the network together, at most, unless one token has more."""


def source_rows(model: PreTrainedModel, num_rows: int) -> Float[Tensor, "vocab stack hidden"]:
    """The model's input rows, with its output rows beside them where the two are not tied.

    Args:
        model: any causal language model.
        num_rows: of its vocabulary; padding beyond is left out.

    Raises:
        ValueError: the output has a bias, which a hypernetwork does not predict.
    """
    read, write = model.get_input_embeddings(), model.get_output_embeddings()
    if getattr(write, "bias", None) is not None:
        raise ValueError(
            f"{type(model).__name__} adds a bias to its output, which a hypernetwork does not "
            "predict; choose another model, or embeddings.init: fvt"
        )
    inputs = embedding_weight(read).detach()[:num_rows]
    if write.weight is read.weight:
        return inputs[:, None]
    return torch.stack([inputs, embedding_weight(write).detach()[:num_rows]], dim=1)


def embedding_weight(module: nn.Module) -> Tensor:
    """The weight of an embedding or of an output layer.

    Raises:
        ValueError: it has none.
    """
    weight = module.weight
    if not isinstance(weight, Tensor):
        raise ValueError(f"a {type(module).__name__} has no weight whose rows could be predicted")
    return weight


def rows_of(
    network: Hypernetwork,
    source: Float[Tensor, "vocab stack hidden"],
    pieces: Sequence[Pieces],
) -> Float[Tensor, "token stack hidden"]:
    """The network's rows of tokens that are spelled so, in their order, in fp32.

    Tokens with equally many pieces are read together, so that next to nothing is padding.
    """
    lengths = np.fromiter(map(len, pieces), dtype=np.int64, count=len(pieces))
    order = np.argsort(lengths, kind="stable")
    found = [
        network(*_gathered(network, source, [pieces[index] for index in order[block].tolist()]))
        for block in _blocks(lengths[order])
    ]
    back = torch.from_numpy(np.argsort(order)).to(source.device)
    rows: Tensor = torch.cat(found)[back]
    if not network.options.keep_own:
        return rows
    own = torch.tensor([ids[0] if len(ids) == 1 else len(source) for ids in pieces])
    own = own.to(source.device)
    known = (own < len(source))[:, None, None]
    return torch.where(known, source[own.clamp(max=len(source) - 1)].float(), rows)


def predict_rows(
    hypernetwork: TrainedHypernetwork | Path,
    rows: Float[Tensor, "source_vocab stack hidden"],
    source: Tokenizer,
    target: Vocabulary,
) -> Float[Tensor, "target_vocab stack hidden"]:
    """The rows of every id of another vocabulary, in fp32 on the CPU, without gradients.

    Args:
        hypernetwork: a trained one, or its folder.
        rows: the model's own, see ``source_rows``.
        source: the model's own tokenizer.
        target: the other vocabulary. Ids without bytes (special, unused) get the mean of the
            model's rows: which special token takes whose place is the caller's to say.

    Raises:
        ConfigError: the folder holds no hypernetwork.
        ValueError: it was trained for another tokenizer or for rows of another shape.
    """
    if isinstance(hypernetwork, Path):
        hypernetwork = TrainedHypernetwork.load(hypernetwork)
    hypernetwork.check(rows, source)
    network = hypernetwork.network
    rows = rows.to(network.byte_rows.device)
    spelled = {i: content for i, content in enumerate(target.token_bytes) if content}
    pieces = Speller(source).spell(list(spelled.values()))
    found = rows.float().mean(0).repeat(len(target), 1, 1)
    with torch.no_grad():
        found[list(spelled)] = rows_of(network, rows, pieces)
    return found.cpu()


def _blocks(lengths: Int64[np.ndarray, "token"]) -> Iterator[slice]:
    """Runs of rising lengths: equal ones, as many as fit."""
    low = 0
    while low < len(lengths):
        length = int(lengths[low])
        same = int(np.searchsorted(lengths, length, side="right"))
        high = min(same, low + max(1, PIECES_AT_ONCE // length))
        yield slice(low, high)
        low = high


def _gathered(
    network: Hypernetwork, source: Float[Tensor, "vocab stack hidden"], pieces: Sequence[Pieces]
) -> tuple[Tensor, Tensor]:
    """Rows of pieces and the mask of what is one; both padded to the longest spelling."""
    longest = max(map(len, pieces))
    padded = torch.tensor([ids + (-1,) * (longest - len(ids)) for ids in pieces])
    padded = padded.to(source.device)
    last = len(source) - 1
    rows = source[padded.clamp(0, last)].float()
    beyond = padded > last
    if beyond.any():
        single = network.byte_rows[(padded - last - 1).clamp(min=0)]
        rows = torch.where(beyond[..., None, None], single, rows)
    return rows, padded >= 0
