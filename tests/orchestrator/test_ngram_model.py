"""N-gram embeddings inside a model, and the folder that opens it elsewhere."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from losses.document import text_document
from orchestrator.ensembling.context import Context
from orchestrator.errors import ConfigError
from orchestrator.evaluation import evaluate_model
from orchestrator.export import export
from orchestrator.references import Reference, _check_of
from orchestrator.student.byte_tokenizer import byte_tokenizer
from orchestrator.student.embeddings.ngrams import SuffixTable, longest_suffixes
from orchestrator.student.embeddings.options import EmbeddingOptions
from orchestrator.student.modeling_ngram_bytes import NGramEmbedding
from orchestrator.student.ngram_model import has_ngrams, make_known, write_modelling_file
from orchestrator.student.special_roles import pair_specials
from orchestrator.student.transfer import transfer, vocabulary_pair
from teachers.backends.transformers import LanguageModel
from teachers.evaluation import bits_per_byte, score
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

    def test_the_factor_is_rounded_as_the_architecture_s_own(
        self, student: Callable[..., LanguageModel]
    ):
        """Ids of one axis are read alone, so only the factor could differ."""
        models = [student("gemma2", ngrams=ngrams).model.bfloat16() for ngrams in (True, False)]
        ours, plain = (model.get_input_embeddings()(torch.arange(200)) for model in models)
        assert torch.equal(ours, plain)

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


class TestOpened:
    """A saved model with n-grams, opened by our own code."""

    @pytest.fixture(params=["llama", "gemma2"])
    def saved(
        self,
        request: pytest.FixtureRequest,
        student: Callable[..., LanguageModel],
        target: Tokenizer,
        tmp_path: Path,
    ) -> tuple[LanguageModel, Path]:
        built, folder = student(request.param), tmp_path / "saved"
        built.model.save_pretrained(folder)
        write_modelling_file(built.model, folder)
        target.fast.save_pretrained(folder)
        return built, folder

    def test_evaluate_reads_the_n_grams(
        self,
        saved: tuple[LanguageModel, Path],
        student: Callable[..., LanguageModel],
        tmp_path: Path,
    ):
        built, folder = saved
        (tmp_path / "d.jsonl").write_text(json.dumps({"text": TEXT}) + "\n")
        found = evaluate_model(str(folder), [str(tmp_path / "d.jsonl")])
        [expected] = score(built, [text_document("d", TEXT)], 512)
        assert found.bits_per_byte == pytest.approx(bits_per_byte([expected]), abs=1e-5)

    def test_export_cuts_the_padding(self, saved: tuple[LanguageModel, Path], tmp_path: Path):
        built, folder = saved
        result = export(folder, tmp_path / "out")
        assert result.num_rows_cut == 320 - 257
        names = {path.name for path in (tmp_path / "out").iterdir()}
        assert "modeling_ngram_bytes.py" in names
        assert (
            "from_pretrained(FOLDER, trust_remote_code=True)"
            in (tmp_path / "out" / "README.md").read_text()
        )
        again = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
        ids = ids_of(built.tokenizer)
        with torch.no_grad():
            logits, expected = again.eval()(ids).logits, built.model(ids).logits
        torch.testing.assert_close(logits, expected[..., :257], atol=1e-4, rtol=0)

    def test_a_folder_that_does_not_say_what_it_holds(self, saved: tuple[Any, Path]):
        path = saved[1] / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"ngram_architecture": "os"}))
        with pytest.raises(ConfigError, match=r'ngram_architecture is "os"; expected a class'):
            make_known(saved[1])

    def test_no_student_starts_from_it(
        self, saved: tuple[LanguageModel, Path], target: Tokenizer, tokenizers: Any
    ):
        built, folder = saved
        with pytest.raises(ValueError, match="has n-gram embeddings, which belong to its byte"):
            transfer(built.model, target, tokenizers["bytelevel"], EmbeddingOptions())
        found = _check_of(Reference("student.init", str(folder)))(folder, str(folder))
        assert [text for text in found if "n-gram embeddings, from which no student starts" in text]


def test_two_architectures_in_one_process(student: Callable[..., LanguageModel], tmp_path: Path):
    """Each folder is opened as what it is, whichever became known last."""
    models = {name: student(name).model for name in ("gemma2", "llama")}
    for name, model in models.items():
        model.save_pretrained(tmp_path / name)
        write_modelling_file(model, tmp_path / name)
        make_known(tmp_path / name)
    for name, model in models.items():
        again = AutoModelForCausalLM.from_pretrained(tmp_path / name)
        assert isinstance(again, type(model)), type(again).__mro__


class TestTokensBefore:
    """Passes that hide from an embedding what stands before a token."""

    def test_an_ensemble_reads_them_again(self, student: Callable[..., LanguageModel]):
        built = student()
        whole, parts = (Context(built, ids) for ids in (list(TEXT.encode()), [TEXT.encode()[0]]))
        for byte in TEXT.encode()[1:]:
            parts.extend([byte])
        torch.testing.assert_close(parts.hidden[-1:], whole.last)
        assert not built.keeps_caches

    def test_packing_is_refused(self, student: Callable[..., LanguageModel]):
        with pytest.raises(ValueError, match="would read across packed documents"):
            LanguageModel.wrap(student().model, student().tokenizer, packing=True)


OPENED = """
import sys, torch
from transformers import AutoModelForCausalLM
try:
    AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=False)
except ValueError as error:
    assert "trust_remote_code" in str(error), error
else:
    raise SystemExit("opened without trust_remote_code")
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
