"""The rows of a model that belong to its vocabulary: input and output embeddings, the head's bias.

They are exchanged in place, so that the model keeps its class and the names of its weights, and
plain ``from_pretrained`` opens what ``save_pretrained`` writes.
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

MULTIPLE = 64
"""The number of rows is a multiple of it: matrix products are quicker so."""

PER_LAYER = "vocab_size_per_layer_input"
"""A key of configurations whose models have further embeddings in every layer."""


@dataclass(frozen=True)
class VocabularyRows:
    """Input rows, output rows (None: the same ones), and the output's bias (None: it has none)."""

    read: Float[Tensor, "vocab hidden"]
    write: Float[Tensor, "vocab width"] | None
    bias: Float[Tensor, "vocab"] | None = None

    @classmethod
    def of(cls, model: PreTrainedModel, num_ids: int) -> "VocabularyRows":
        """The model's own.

        Args:
            model: a causal language model.
            num_ids: of its tokenizer.

        Raises:
            ValueError: the model has too few rows, tied heads of different sizes, or rows
                elsewhere.
        """
        read, head = embedding_modules(model)
        tied = head.weight is read.weight
        _check(model, read.weight, head.weight, num_ids)
        bias = head.bias if isinstance(head, nn.Linear) else None
        return cls(
            read.weight.detach(),
            None if tied else head.weight.detach(),
            None if bias is None else bias.detach(),
        )

    @property
    def is_tied(self) -> bool:
        """True if input and output share their rows."""
        return self.write is None


def set_rows(
    model: PreTrainedModel, rows: VocabularyRows, num_ids: int, multiple: int = MULTIPLE
) -> None:
    """Give the model these rows, padded, in its own number format and place.

    Padded rows are zero. No token's logit reads them here, and ``generate`` never chooses them.

    Args:
        model: changed in place.
        rows: one for each id; output rows where the model ties them untie it.
        num_ids: of the new tokenizer.
        multiple: their number is padded to a multiple of it; 1 pads none.
    """
    read, head = embedding_modules(model)
    like = read.weight

    def padded(values: Tensor) -> nn.Parameter:
        size = -(-len(values) // multiple) * multiple
        full = like.new_zeros(size, *values.shape[1:])
        full[: len(values)] = values.to(full)
        return nn.Parameter(full, requires_grad=like.requires_grad)

    read.weight = padded(rows.read)
    if rows.write is None:
        head.weight = read.weight
    else:
        _untie(model)
        head.weight = padded(rows.write)
    if rows.bias is not None and isinstance(head, nn.Linear):
        head.bias = padded(rows.bias)
    _set_sizes(model, num_ids)


def embedding_modules(model: PreTrainedModel) -> tuple[nn.Embedding, nn.Linear]:
    """What reads tokens and what writes them.

    Raises:
        ValueError: they are of another kind.
    """
    read, head = model.get_input_embeddings(), model.get_output_embeddings()
    if not isinstance(read, nn.Embedding) or not isinstance(head, nn.Linear):
        raise ValueError(
            f"{type(model).__name__} reads tokens by {type(read).__name__} and writes them by "
            f"{type(head).__name__}; expected an embedding and a linear layer, whose rows a new "
            "tokenizer can be given"
        )
    return read, head


def _check(model: PreTrainedModel, read: Tensor, write: Tensor, num_ids: int) -> None:
    config = model.config.get_text_config()
    if len(read) != len(write):
        tied = "are tied in config.json" if config.tie_word_embeddings else "belong to one model"
        raise ValueError(
            f"{type(model).__name__} has {len(read)} input rows and {len(write)} output rows, "
            f"which {tied}; expected as many: save the model again with its own tokenizer"
        )
    if len(read) < num_ids:
        raise ValueError(
            f"the tokenizer of init has {num_ids} ids, but {type(model).__name__} only "
            f"{len(read)} rows; tokenizer and model do not belong together"
        )
    if PER_LAYER in config.to_dict():
        raise ValueError(
            f"{type(model).__name__} has embeddings of its tokens in every layer, for which no "
            "rows of a new tokenizer are made; expected a model with one input embedding"
        )


def _untie(model: PreTrainedModel) -> None:
    for config in (model.config, model.config.get_text_config()):
        config.tie_word_embeddings = False
    model.all_tied_weights_keys = model.get_expanded_tied_weights_keys(all_submodels=True)


def _set_sizes(model: PreTrainedModel, num_ids: int) -> None:
    read, head = embedding_modules(model)
    size = len(read.weight)
    read.num_embeddings = head.out_features = size
    model.config.get_text_config().vocab_size = model.vocab_size = size
    if model.generation_config is not None:
        model.generation_config.suppress_tokens = list(range(num_ids, size)) or None
