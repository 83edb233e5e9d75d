"""Toy tokenizers of both families, tiny random models of several architectures, on one thread.

The models are drawn wide enough that their predictions are far from uniform: a wrong scale,
shift or cap then shows. What is heavy is imported where it is needed: the process that only deals
tests out to others reads this file too.
"""

import gc
import importlib.util
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from losses.document import Document
    from teachers.backends.transformers import LanguageModel
    from teachers.tokenizer import Tokenizer

# Read when Ray is imported: a Ray that is started asks for a token, who joins it must know that.
os.environ.setdefault("RAY_AUTH_MODE", "token")

settings.register_profile(
    "tests",
    deadline=None,
    derandomize=True,
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
settings.load_profile("tests")

SIZE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
}
NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
GEMMA = {"head_dim": 8, "final_logit_softcapping": 3.0, "query_pre_attn_scalar": 8}
ARCHITECTURES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", {}),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", NO_DROPOUT),  # tied head, learned positions
    "gemma2": ("Gemma2ForCausalLM", "Gemma2Config", GEMMA),  # soft-capped logits
    "gemma3": ("Gemma3ForCausalLM", "Gemma3TextConfig", GEMMA | {"sliding_window": 16}),
    "cohere": ("CohereForCausalLM", "CohereConfig", {"logit_scale": 0.3}),
    "granite": ("GraniteForCausalLM", "GraniteConfig", {"logits_scaling": 4.0}),
    "phi": ("PhiForCausalLM", "PhiConfig", {}),  # a head with a bias
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", {}),  # AutoTokenizer wants its own tokenizer
}
END_TO_END = Path(__file__).parent / "e2e"
TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "Hi",
    "A naïve café in 東京 🙂 costs 10 €; why?\n\n\tNobody knows.",
    "def f(x):\n    return x + 1  # done",
    "Objects are Python's abstraction for data, and all data is represented by objects or by "
    "relations between objects. Every object has an identity, a type and a value.",
]


def build_model(
    architecture: str, vocab_size: int, *, seed: int = 0, **options: Any
) -> "PreTrainedModel":
    """A tiny model with seeded random weights, in evaluation mode."""
    import torch
    import transformers

    kind, config, extra = ARCHITECTURES[architecture]
    ids = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sizes = getattr(transformers, config)(
            vocab_size=vocab_size, **ids, **{**SIZE, **extra, **options}
        )
        model: PreTrainedModel = getattr(transformers, kind)(sizes)
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):  # libraries start these at zero, which would hide them
                torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def toy_texts() -> list[str]:
    from orchestrator.assets.toy.text import toy_rows

    return [row.text for row in toy_rows()][:300]


@pytest.fixture(scope="session")
def fast_tokenizers(toy_texts: list[str]) -> dict[str, Any]:
    """Both families as ``transformers`` has them; shared, so never change them."""
    from orchestrator.assets.toy.tokenizers import byte_level_tokenizer, sentencepiece_tokenizer

    return {
        "bytelevel": byte_level_tokenizer(toy_texts),
        "sentencepiece": sentencepiece_tokenizer(toy_texts),
    }


@pytest.fixture(scope="session")
def tokenizers(fast_tokenizers: dict[str, Any]) -> dict[str, "Tokenizer"]:
    """Both families as we read them."""
    from teachers.tokenizer import Tokenizer

    return {name: Tokenizer(fast, name) for name, fast in fast_tokenizers.items()}


@pytest.fixture(scope="session")
def tiny_model() -> Callable[..., "PreTrainedModel"]:
    return build_model


@pytest.fixture(scope="session")
def language_model(tokenizers: dict[str, "Tokenizer"]) -> Callable[..., "LanguageModel"]:
    """Build a checked tiny model for one of the toy tokenizers."""
    from teachers.backends.transformers import LanguageModel

    def build(
        architecture: str = "llama", tokenizer: str = "bytelevel", padded_rows: int = 0, **more: Any
    ) -> LanguageModel:
        read = tokenizers[tokenizer]
        model = build_model(architecture, len(read.vocabulary) + padded_rows, **more)
        return LanguageModel.wrap(model, read)

    return build


@pytest.fixture(scope="session")
def scripted_server() -> Any:
    """The class of ``tests/scripted_server.py``, which is no package that can be imported."""
    path = Path(__file__).with_name("scripted_server.py")
    spec = importlib.util.spec_from_file_location("scripted_server", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.ScriptedServer


@pytest.fixture(scope="session")
def documents() -> list["Document"]:
    """Five documents of very different lengths."""
    from losses.document import text_document

    return [text_document(f"d{index}", text) for index, text in enumerate(TEXTS)]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Ray drops processes of its own without waiting for them where the machine is slow."""
    late = pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning")
    for item in items:
        if item.get_closest_marker("ray"):
            if item.path.parent != END_TO_END:
                raise pytest.UsageError(f"{item.nodeid}: tests with Ray run from {END_TO_END}")
            item.add_marker(late)


def pytest_collection_finish() -> None:
    """What was imported stays: the garbage collector need not look at it again and again."""
    gc.collect()
    gc.freeze()
