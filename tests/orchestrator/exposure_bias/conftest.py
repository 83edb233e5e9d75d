"""Language models that are Markov chains over tokens, so that everything can be counted by hand."""

from collections.abc import Callable, Mapping

import pytest
import torch
from tokenizers import Tokenizer as FastTokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from losses.alignment.vocabulary import byte_alphabet
from teachers.backends.transformers import LanguageModel
from teachers.tokenizer import Tokenizer

END = "<|endoftext|>"
NEVER = -60.0

Chain = Mapping[str, Mapping[str, float]]
"""Token -> next token -> probability; tokens of one or two characters."""


def markov_model(chain: Chain, name: str = "markov") -> LanguageModel:
    """A Llama whose next token depends on the last one alone, by a table.

    Embeddings are unit vectors, the only layer adds nothing, and the head is the table.
    """
    tokenizer = Tokenizer(_fast(sorted(piece for piece in chain if len(piece) > 1)), name)
    size = len(tokenizer.vocabulary)
    hidden = size + size % 2
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=hidden,
        intermediate_size=2,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=2,
        max_position_embeddings=64,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config).eval()
    table = torch.full((size, size), NEVER)
    for piece, row in chain.items():
        for following, probability in row.items():
            if probability:
                table[_id(tokenizer, piece), _id(tokenizer, following)] = probability
    table = torch.where(table > 0, table.clamp_min(1e-30).log(), NEVER)
    with torch.no_grad():
        for parameter in model.model.layers.parameters():
            parameter.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(size, hidden))
        scale = (1 / hidden + config.rms_norm_eps) ** 0.5
        model.lm_head.weight.zero_()
        model.lm_head.weight[:, :size] = table.T * scale
    return LanguageModel.wrap(model, tokenizer)


def _fast(merged: list[str]) -> PreTrainedTokenizerFast:
    pieces = [END, *byte_alphabet(), *merged]
    backend = FastTokenizer(
        BPE({piece: index for index, piece in enumerate(pieces)}, [(m[0], m[1]) for m in merged])
    )
    backend.pre_tokenizer = ByteLevel(add_prefix_space=False)
    backend.decoder = ByteLevelDecoder()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=END, eos_token=END, clean_up_tokenization_spaces=False
    )


def _id(tokenizer: Tokenizer, piece: str) -> int:
    [index] = tokenizer.vocabulary.ids_of(piece.encode())
    return index


@pytest.fixture(scope="session")
def markov() -> Callable[..., LanguageModel]:
    return markov_model
