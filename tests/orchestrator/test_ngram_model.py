"""N-gram embeddings inside a model, and the folder that opens it elsewhere."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from orchestrator.student.byte_tokenizer import byte_tokenizer
from orchestrator.student.embeddings.ngrams import SuffixTable, longest_suffixes
from orchestrator.student.embeddings.options import EmbeddingOptions
from orchestrator.student.modeling_ngram_bytes import NGramEmbedding
from orchestrator.student.ngram_model import has_ngrams, write_modelling_file
from orchestrator.student.special_roles import pair_specials
from orchestrator.student.transfer import transfer, vocabulary_pair
from teachers.backends.transformers import LanguageModel
from teachers.tokenizer import Tokenizer

TEXT = "The quick brown fox is any object"


@pytest.fixture(scope="module")
def target(tokenizers: dict[str, Tokenizer]) -> Tokenizer:
    return Tokenizer(byte_tokenizer(tokenizers["bytelevel"]), "student")


@pytest.fixture
def student(
    tiny_model: Callable[..., PreTrainedModel], tokenizers: dict[str, Tokenizer], target: Tokenizer
) -> Callable[..., LanguageModel]:
    def build(architecture: str = "llama", *, ngrams: bool = True) -> LanguageModel:
        model = tiny_model(architecture, 512)
        transfer(model, tokenizers["bytelevel"], target, EmbeddingOptions(ngrams=ngrams))
        return LanguageModel.wrap(model, target)

    return build


def ids_of(target: Tokenizer) -> torch.Tensor:
    return torch.tensor([[256, *TEXT.encode(), 256, *b"a b"]])


class TestEmbedding:
    @pytest.mark.parametrize("architecture", ["llama", "gemma2"])
    def test_adds_the_old_row_of_the_longest_token(
        self,
        student: Callable[..., LanguageModel],
        tiny_model: Callable[..., PreTrainedModel],
        tokenizers: dict[str, Tokenizer],
        target: Tokenizer,
        architecture: str,
    ):
        source, ids = tokenizers["bytelevel"], ids_of(target)
        model, plain = student(architecture).model, student(architecture, ngrams=False).model
        read = model.get_input_embeddings()
        assert isinstance(read, NGramEmbedding)
        pair, old = vocabulary_pair(source, target), pair_specials(source, target).old
        table = SuffixTable.of(pair.source, pair.encode_source, [*[-1] * 256, old[256]])
        expected = longest_suffixes(ids.numpy(), table)
        assert np.array_equal(read.longest(ids).numpy(), expected)
        assert max(len(source.vocabulary.token_bytes[i] or b"") for i in expected[0]) > 2
        before = tiny_model(architecture, 512).get_input_embeddings()
        added = plain.get_input_embeddings()(ids) + before(torch.from_numpy(expected))
        torch.testing.assert_close(read(ids), added)

    def test_only_rows_of_bytes_are_trained(
        self, student: Callable[..., LanguageModel], target: Tokenizer
    ):
        model = student().model
        model(ids_of(target)).logits.square().sum().backward()
        read = model.get_input_embeddings()
        assert read.weight.grad.abs().sum() > 0
        assert not read.ngram_rows.requires_grad
        assert "model.embed_tokens.ngram_rows" not in dict(model.named_parameters())

    def test_a_special_token_alone_cuts(self, student: Callable[..., LanguageModel]):
        read = student().model.get_input_embeddings()
        both = read.longest(torch.tensor([[97, 32, 97], [256, 32, 97]]))
        assert torch.equal(both[0, 1:], both[1, 1:]) or both[0, 2] != both[1, 2]
        assert read(torch.tensor([97])).shape == (1, 32)


OPENED = """
import sys, torch
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True)
ids = torch.tensor([list(b"The quick bro")])
with torch.no_grad():
    print(*model(ids).logits[0, -1, :4].tolist())
runs = [
    model.generate(ids, max_new_tokens=6, do_sample=False, use_cache=cache)
    for cache in (True, False)
]
assert torch.equal(*runs), runs
print(*runs[0][0].tolist())
"""


@pytest.mark.slow
def test_another_process_opens_it_with_the_flag(
    student: Callable[..., LanguageModel], tmp_path: Path
):
    model = student().model
    assert has_ngrams(model)
    model.save_pretrained(tmp_path / "saved")
    write_modelling_file(model, tmp_path / "saved")
    answer = subprocess.run(
        [sys.executable, "-c", OPENED, str(tmp_path / "saved")],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_MODULES_CACHE": str(tmp_path / "modules")},
    )
    logits, ids = (line.split() for line in answer.stdout.splitlines())
    with torch.no_grad():
        own = model(torch.tensor([list(b"The quick bro")])).logits[0, -1, :4]
    torch.testing.assert_close(torch.tensor([float(value) for value in logits]), own)
    assert len(ids) == 19
    with pytest.raises(ValueError, match="trust_remote_code"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
