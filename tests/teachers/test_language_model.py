"""The head we read is the model's own, and no prediction depends on what else is in the batch."""

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from losses.document import Document, Segment, text_document
from losses.prediction import Head
from teachers.backends import transformers as backend
from teachers.backends.transformers import LanguageModel, head_of, load_weights
from teachers.source import ModelSource

ARCHITECTURES = ["llama", "gpt2", "gemma2", "gemma3", "cohere", "granite", "phi"]


@torch.no_grad()
def own_logits(model: LanguageModel, ids: list[int]) -> torch.Tensor:
    """The model's own logits of one unpadded sequence, asked for without any of our code."""
    logits: torch.Tensor = model.model(input_ids=torch.tensor([ids])).logits[0]
    return logits


@torch.no_grad()
def predicted(model: LanguageModel, documents: list[Document]) -> list[torch.Tensor]:
    return [row.logprob_of_scored() for row in model.predictions(documents)]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
class TestHead:
    @torch.no_grad()
    def test_logits_are_the_models_own(self, language_model, architecture):
        model = language_model(architecture)
        ids = [3, 1, 4, 1, 5, 9, 2, 6]
        hidden = model.model.base_model(input_ids=torch.tensor([ids])).last_hidden_state[0]
        expected = own_logits(model, ids)
        assert expected.std() > 0.1  # far from uniform, else a wrong scale would pass
        torch.testing.assert_close(model.head.logits(hidden), expected, atol=1e-5, rtol=1e-5)

    @torch.no_grad()
    def test_padded_rows_get_no_probability(self, language_model, architecture):
        model = language_model(architecture, padded_rows=7)
        [prediction] = model.predictions([text_document("d", "A short text.")])
        table = prediction.map_rows(lambda rows: rows, prediction.scored_positions - 1)
        assert table.shape[1] == len(model.tokenizer.vocabulary)
        torch.testing.assert_close(table.exp().sum(-1), torch.ones(len(table)))

    def test_likelihoods_are_the_models_own(self, language_model, documents, architecture):
        """Brute force: log-softmax of the model's logits, shifted by one position."""
        model = language_model(architecture)
        for document, logprobs in zip(documents, predicted(model, documents), strict=True):
            ids = model.tokenizer.fast(document.content.decode())["input_ids"]
            ids = [0, *ids]  # the start token
            table = torch.log_softmax(own_logits(model, ids).double(), -1)
            expected = torch.stack([table[i, ids[i + 1]] for i in range(len(ids) - 1)])
            torch.testing.assert_close(logprobs.double(), expected, atol=1e-5, rtol=0)

    def test_batch_and_padding_do_not_matter(self, language_model, documents, architecture):
        model = language_model(architecture)
        together = predicted(model, documents)
        for document, row in zip(documents, together, strict=True):
            [alone] = predicted(model, [document])
            torch.testing.assert_close(row, alone, atol=1e-5, rtol=0)


class TestSelfTest:
    @pytest.mark.parametrize(
        ("architecture", "wrong"),
        [("llama", {"scale": 1.1}), ("granite", {"scale": 1.0}), ("gemma2", {"softcap": None})],
    )
    def test_wrong_head_is_caught(self, language_model, monkeypatch, architecture, wrong):
        def misread(model: nn.Module, size: int) -> Head:
            found = head_of(model, size)
            return Head(**{**vars(found), **wrong})

        monkeypatch.setattr(backend, "head_of", misread)
        with pytest.raises(ValueError, match=r"bytelevel: .*head.* differs .* by [0-9.]+ nats"):
            language_model(architecture)

    def test_unknown_kind_of_head_is_caught(self, tiny_model, tokenizers):
        class Shifted(nn.Linear):
            """A head that does more than its weight says when the whole model calls it."""

            def forward(self, hidden: torch.Tensor) -> torch.Tensor:
                return super().forward(hidden).cumsum(0 if hidden.ndim == 2 else -1)

        model = tiny_model("llama", 512)
        model.lm_head.__class__ = Shifted
        with pytest.raises(ValueError, match="cannot be used here"):
            LanguageModel.wrap(model, tokenizers["bytelevel"])

    def test_not_a_number_is_caught(self, tiny_model, tokenizers):
        model = tiny_model("llama", 512)
        model.lm_head.weight.data[5] = torch.nan
        with pytest.raises(ValueError, match="by nan nats"):
            LanguageModel.wrap(model, tokenizers["bytelevel"])

    def test_leaves_the_mode_as_it_was(self, tiny_model, tokenizers):
        model = tiny_model("gpt2", 512).train()
        assert LanguageModel.wrap(model, tokenizers["bytelevel"]).model.training


def test_too_few_rows_are_refused(tiny_model, tokenizers):
    with pytest.raises(ValueError, match="512 ids, but LlamaForCausalLM has only 511 rows"):
        LanguageModel.wrap(tiny_model("llama", 511), tokenizers["bytelevel"])


def test_only_scored_bytes_are_scored(language_model):
    model = language_model("llama")
    segments = (Segment("prompt", b"2 + 2 = ", False), Segment("completion", b"4 or so", True))
    document = Document("d", segments)
    [prediction] = model.predictions([document])
    starts = [end - 1 >= 8 for end in prediction.tokens.byte_ends]
    assert prediction.scored.tolist() == starts  # no token straddles byte 8 here
    whole = text_document("d", "2 + 2 = 4 or so")
    [everything] = predicted(model, [whole])
    [part] = predicted(model, [document])
    torch.testing.assert_close(part, everything[-len(part) :])


def test_documents_without_anything_scored(language_model):
    model = language_model("llama")
    silent = Document("silent", (Segment("prompt", b"nothing counts", False),))
    rows = predicted(model, [silent, text_document("empty", ""), text_document("d", "word")])
    assert [len(row) > 0 for row in rows] == [False, False, True]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_load(language_model, tmp_path, dtype, documents):
    saved = language_model("llama", seed=3)
    saved.model.save_pretrained(tmp_path)
    source = ModelSource(str(tmp_path), dtype=dtype)
    loaded = LanguageModel.load(source, saved.tokenizer)
    assert load_weights(source, "cpu").dtype == source.torch_dtype
    ours, theirs = predicted(loaded, documents)[0], predicted(saved, documents)[0]
    assert ours.dtype == torch.float32
    tolerance = 1e-5 if dtype == "float32" else 0.5
    torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=0)


def test_weights_cut_off_are_refused(tiny_model, tmp_path):
    tiny_model("llama", 512).save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=rf"^{tmp_path}: the weights cannot be read \("):
        load_weights(ModelSource(str(tmp_path)), "cpu")


def test_unknown_options_are_refused(tiny_model, tmp_path, monkeypatch):
    tiny_model("llama", 512).save_pretrained(tmp_path)
    options = {"attn_implementation": "eager", "attn_implementaton": "eager"}
    with pytest.raises(ValueError, match=r"^model_options\.attn_implementaton: unknown to"):
        load_weights(ModelSource(str(tmp_path), options=options), "cpu")

    def fail(*_: object, **__: object) -> None:
        raise TypeError("a bug")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", fail)
    with pytest.raises(TypeError, match="a bug"):
        load_weights(ModelSource(str(tmp_path), options=options), "cpu")


def test_document_longer_than_the_model_reads_is_refused(language_model):
    model = language_model("gpt2", max_position_embeddings=16)
    model.predictions([text_document("short", "four")])
    with pytest.raises(ValueError, match=r"document long is \d+ tokens .* at most 16"):
        model.predictions([text_document("long", "the quick brown fox " * 20)])
