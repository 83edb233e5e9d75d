"""The frozen model, read with rows of another vocabulary in the place of its own."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import PreTrainedModel

from losses.alignment.tokens import Tokens
from losses.alignment.vocabulary import Vocabulary
from losses.document import Document
from losses.prediction import Prediction
from orchestrator.hypernetwork.config import BaseModelConfig
from orchestrator.hypernetwork.rows import embedding_weight, source_rows
from orchestrator.loading import check_device
from orchestrator.sources import model_path
from orchestrator.student.layers import keep_layers, kept_layers
from teachers.backends.transformers import LanguageModel, load_weights
from teachers.source import ModelSource
from teachers.tokenizer import Tokenizer

NUM_PROBES = 64


class FrozenModel:
    """A causal language model whose weights never change, with rows that are given each time.

    Args:
        own: the model with its own tokenizer.

    Raises:
        ValueError: its embedding does more than look up a row and scale it, or its output has a
            bias.
    """

    def __init__(self, own: LanguageModel) -> None:
        self.own = own
        own.model.requires_grad_(requires_grad=False)
        own.model.eval()
        self.rows = source_rows(own.model, len(own.tokenizer.vocabulary))
        self._scale = embedding_scale(own.model)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.own.device

    def predictions(
        self,
        documents: Sequence[Document],
        tokens: Sequence[Tokens],
        vocabulary: Vocabulary,
        rows: Float[Tensor, "local stack hidden"],
    ) -> list[Prediction]:
        """Predictions of documents in the tokens of this vocabulary (one padded forward pass).

        Args:
            documents: the batch.
            tokens: their tokens; ids are rows of ``rows``.
            vocabulary: of these ids.
            rows: input rows, then output rows where the model does not tie them.
        """
        rows = rows.to(self.own.model.dtype)
        states = self._hidden_states(tokens, rows[:, 0])
        head = replace(self.own.head, linear=_Rows(rows[:, -1]), num_valid=len(rows))
        return [
            Prediction(
                tokens=view,
                hidden=hidden,
                head=head,
                vocabulary=vocabulary,
                scored=torch.from_numpy(view.scored(document.scored)).to(self.device),
                elements_in_memory=self.own.elements_in_memory,
            )
            for document, view, hidden in zip(documents, tokens, states, strict=True)
        ]

    def _hidden_states(
        self, batch: Sequence[Tokens], rows: Float[Tensor, "local hidden"]
    ) -> list[Float[Tensor, "_ hidden"]]:
        longest = max(map(len, batch))
        limit = getattr(self.own.model.config.get_text_config(), "max_position_embeddings", None)
        if limit is not None and longest > limit:
            raise ValueError(
                f"a document is {longest} tokens long in a sampled vocabulary, the model reads at "
                f"most {limit}; lower data.max_length"
            )
        ids = torch.zeros(len(batch), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, tokens in enumerate(batch):
            ids[row, : len(tokens)] = torch.from_numpy(tokens.ids)
            mask[row, : len(tokens)] = 1
        states: Tensor = self.own.model.base_model(
            inputs_embeds=rows[ids.to(self.device)] * self._scale,
            attention_mask=mask.to(self.device),
            use_cache=False,
        ).last_hidden_state
        return [states[row, : len(tokens)] for row, tokens in enumerate(batch)]


class _Rows(nn.Module):
    """A linear map by rows that are no parameters of their own."""

    def __init__(self, rows: Float[Tensor, "local hidden"]) -> None:
        super().__init__()
        self.rows = rows

    def forward(self, hidden: Float[Tensor, "row hidden"]) -> Float[Tensor, "row local"]:
        return linear(hidden, self.rows)


@torch.no_grad()
def embedding_scale(model: PreTrainedModel) -> float:
    """What the model's input embedding multiplies a row by (Gemma: sqrt(hidden size), else 1).

    Raises:
        ValueError: it does something else.
    """
    embedding = model.get_input_embeddings()
    weight = embedding_weight(embedding)
    ids = torch.arange(min(NUM_PROBES, len(weight)), device=weight.device)
    rows, given = weight[ids].double(), embedding(ids).double()
    scale = float((rows * given).sum() / (rows * rows).sum())
    worst = (given - scale * rows).abs().max() / given.abs().max()
    if not worst <= 1e-2:
        raise ValueError(
            f"{type(model).__name__}: its input embedding does more than look up a row and scale "
            f"it (off by {float(worst):.1%}), so rows cannot be predicted for it"
        )
    return 1.0 if abs(scale - 1) < 1e-6 else scale


def load_tokenizer(config: BaseModelConfig) -> Tokenizer:
    """The model's own tokenizer.

    Raises:
        ConfigError: there is no such model.
    """
    return Tokenizer.load(_source(config), "model")


def load_frozen(config: BaseModelConfig, tokenizer: Tokenizer) -> FrozenModel:
    """Load the model with the layers it keeps.

    Raises:
        ConfigError: there is no such device.
        ValueError: layers are out of range, or the model cannot be used.
    """
    device = config.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    check_device(device)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    model = load_weights(_source(config), device)
    depth = model.config.get_text_config().num_hidden_layers
    keep_layers(model, kept_layers(depth, config.keep_layers, config.drop_layers))
    return FrozenModel(LanguageModel.wrap(model, tokenizer))


def _source(config: BaseModelConfig) -> ModelSource:
    return ModelSource(
        model_path(config.init),
        revision=config.revision,
        dtype=config.dtype,
        options=dict(config.model_options),
    )
