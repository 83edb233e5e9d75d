"""Hugging Face models as a decoder that gives hidden states and a head that reads them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedModel

from losses.alignment.tokens import Tokens
from losses.document import Document
from losses.prediction import ELEMENTS_IN_MEMORY, Head, Prediction
from teachers.backends.continuations import continuations_of, shares_passes
from teachers.backends.packing import check_packing, packed_hidden_states
from teachers.batching import token_budget_batches
from teachers.source import ModelSource
from teachers.tokenizer import Tokenizer

SELF_TEST_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.25, torch.float16: 0.05}
"""Largest difference in nats between our head and the model's own logits."""


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model, its tokenizer, and its head.

    Documents with more log-probabilities than ``elements_in_memory`` are read in row chunks; with
    ``packing`` several documents share a row of a batch.
    """

    model: PreTrainedModel
    tokenizer: Tokenizer
    head: Head
    elements_in_memory: int = ELEMENTS_IN_MEMORY
    packing: bool = False

    @classmethod
    def load(
        cls, source: ModelSource, tokenizer: Tokenizer, device: str = "cpu"
    ) -> "LanguageModel":
        """Load weights from a folder or a hub id.

        Raises:
            ValueError: our reading of the model's head differs from the model's own logits, or
                packed documents see each other.
        """
        return cls.wrap(load_weights(source, device), tokenizer, packing=source.packing)

    @classmethod
    def wrap(
        cls, model: PreTrainedModel, tokenizer: Tokenizer, *, packing: bool = False
    ) -> "LanguageModel":
        """Check a loaded model's head against the model's own logits and wrap both."""
        head = head_of(model, len(tokenizer.vocabulary))
        language_model = cls(model, tokenizer, head, packing=packing)
        language_model._self_test()
        if packing:
            check_packing(model, tokenizer.name)
        return language_model

    @property
    def device(self) -> torch.device:
        """Where inputs go."""
        return self.model.device

    def encode(self, documents: Sequence[Document]) -> list[Tokens]:
        """Each document's tokens.

        Raises:
            ValueError: a document is longer than the model can read.
        """
        limit = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        tokens = self.tokenizer.encode(documents)
        for document, view in zip(documents, tokens, strict=True):
            if limit is not None and len(view) > limit:
                raise ValueError(
                    f"document {document.name} is {len(view)} tokens long for "
                    f"{self.tokenizer.name}, which reads at most {limit}; lower data.max_length"
                )
        return tokens

    def predictions(
        self, documents: Sequence[Document], *, continuations: bool = False
    ) -> list[Prediction]:
        """The model's predictions on a batch of documents (one padded forward pass).

        Args:
            documents: the batch.
            continuations: let each prediction ask the model what follows other tokens.
        """
        tokens = self.encode(documents)
        cache = self._new_cache() if continuations else None
        states = self.hidden_states(tokens, cache)
        found = [
            self.prediction(document, view, hidden)
            for document, view, hidden in zip(documents, tokens, states, strict=True)
        ]
        if continuations:
            for row, prediction in enumerate(found):
                view = prediction.tokens
                prediction.continuations = continuations_of(self.model, view, cache, row)
        return found

    def batches(self, lengths: Sequence[int], token_budget: int) -> list[list[int]]:
        """Which documents of these lengths share a forward pass: see ``token_budget_batches``."""
        return token_budget_batches(lengths, token_budget, packing=self.packing)

    def hidden_states(
        self, batch: Sequence[Tokens], cache: DynamicCache | None = None
    ) -> list[Float[Tensor, "_ hidden"]]:
        """Final-norm hidden states of each sequence, from one forward pass.

        Args:
            batch: the sequences.
            cache: filled with their keys and values; not for packed sequences.
        """
        if self.packing:
            return packed_hidden_states(self.model.base_model, batch, self.device)
        return hidden_states(self.model.base_model, batch, self.device, cache)

    def _new_cache(self) -> DynamicCache | None:
        """A cache for a batch, if one can be used again after the batch."""
        return DynamicCache() if self.keeps_caches and not self.packing else None

    @cached_property
    def keeps_caches(self) -> bool:
        """True if keys and values of a pass can be used again by another one."""
        return shares_passes(self.model)

    def prediction(
        self, document: Document, tokens: Tokens, hidden: Float[Tensor, "token hidden"]
    ) -> Prediction:
        """The prediction that these hidden states make about the document."""
        scored = torch.from_numpy(tokens.scored(document.scored))
        prediction = Prediction(
            tokens=tokens,
            hidden=hidden,
            head=self.head,
            vocabulary=self.tokenizer.vocabulary,
            scored=scored.to(hidden.device),
            elements_in_memory=self.elements_in_memory,
        )
        prediction.embed = self.model.get_input_embeddings()
        return prediction

    @torch.no_grad()
    def _self_test(self) -> None:
        was_training = self.model.training
        self.model.eval()
        ids = torch.arange(8, device=self.device) % len(self.tokenizer.vocabulary)
        expected = self.model(input_ids=ids[None]).logits[0, :, : self.head.num_valid].float()
        hidden = self.model.base_model(input_ids=ids[None], use_cache=False).last_hidden_state[0]
        ours = torch.log_softmax(self.head.logits(hidden), -1)
        worst = (ours - torch.log_softmax(expected, -1)).abs().max().item()
        self.model.train(was_training)
        if not worst <= SELF_TEST_TOLERANCE.get(hidden.dtype, 1e-3):
            raise ValueError(
                f"{self.tokenizer.name}: reading {type(self.model).__name__}'s head by itself "
                f"differs from the model's own logits by {worst:.3g} nats; its head does more "
                "than linear, bias, scale and soft-capping, so it cannot be used here"
            )


def load_weights(source: ModelSource, device: str) -> PreTrainedModel:
    """The model on its device, or where a ``device_map`` among its options puts it.

    Raises:
        ValueError: a file of weights is damaged, or the model does not know one of its options.
    """
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            source.path,
            dtype=source.torch_dtype,
            revision=source.revision,
            trust_remote_code=source.trust_remote_code,
            **source.options,
        )
    except SafetensorError as error:
        raise ValueError(
            f"{source.path}: the weights cannot be read ({error}); expected whole safetensors "
            "files: copy or download them again"
        ) from error
    except TypeError as error:
        refused = [name for name in source.options if f"argument '{name}'" in str(error)]
        if not refused:
            raise
        raise ValueError(
            f"model_options.{refused[0]}: unknown to the model of {source.path} ({error}); "
            "expected an argument of from_pretrained or a key of config.json, such as "
            "attn_implementation"
        ) from error
    if "device_map" not in source.options:
        model.to(torch.device(device))  # type: ignore[arg-type]
    return model


def hidden_states(
    decoder: nn.Module,
    batch: Sequence[Tokens],
    device: torch.device,
    cache: DynamicCache | None = None,
) -> list[Float[Tensor, "_ hidden"]]:
    """Final-norm hidden states of each sequence (right-padded together, padding cut again).

    A cache, if there is one, is filled with their keys and values.
    """
    longest = max(len(tokens) for tokens in batch)
    ids = torch.zeros(len(batch), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, tokens in enumerate(batch):
        ids[row, : len(tokens)] = torch.from_numpy(tokens.ids)
        mask[row, : len(tokens)] = 1
    output = decoder(
        input_ids=ids.to(device),
        attention_mask=mask.to(device),
        past_key_values=cache,
        use_cache=cache is not None,
    )
    states: Tensor = output.last_hidden_state
    return [states[row, : len(tokens)] for row, tokens in enumerate(batch)]


def head_of(model: PreTrainedModel, vocabulary_size: int) -> Head:
    """The model's output embedding with its scale and soft-capping; padded rows cut.

    Raises:
        ValueError: the tokenizer has more ids than the model has rows.
    """
    linear = model.get_output_embeddings()
    config = model.config.get_text_config()
    if config.vocab_size < vocabulary_size:
        raise ValueError(
            f"the tokenizer has {vocabulary_size} ids, but {type(model).__name__} has only "
            f"{config.vocab_size} rows; tokenizer and model do not belong together"
        )
    scale = getattr(config, "logit_scale", None)
    divisor = getattr(config, "logits_scaling", None)
    return Head(
        linear=linear,
        num_valid=vocabulary_size,
        scale=(1.0 if scale is None else float(scale)) / (divisor or 1.0),
        softcap=getattr(config, "final_logit_softcapping", None),
    )
