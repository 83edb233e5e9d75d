"""Documents that share a row of a batch see nothing of each other, forwards and backwards."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from losses.alignment.tokens import Tokens
from losses.document import text_document
from losses.methods.alm import Alm
from teachers.backends.packing import check_packing, packed_hidden_states
from teachers.backends.transformers import LanguageModel, hidden_states
from teachers.batching import packed_rows, token_budget_batches
from teachers.source import ModelSource
from teachers.teacher import Teacher

ARCHITECTURES = ["llama", "gpt2", "gemma2", "gemma3", "cohere", "granite", "phi"]
CPU = torch.device("cpu")
LENGTHS = (40, 23, 17, 9, 1, 1)  # more than gemma's window of 16; three rows' worth in three


def sequences(lengths=LENGTHS, seed: int = 0) -> list[Tokens]:
    random = np.random.default_rng(seed)
    return [Tokens(random.integers(512, size=n), np.full(n, -1)) for n in lengths]


@pytest.fixture(params=["sdpa", "eager"])
def decoder(request, tiny_model):
    """Build a decoder with either attention."""

    def build(architecture: str, *, training: bool = False) -> nn.Module:
        if (architecture, request.param) == ("gemma2", "sdpa"):
            pytest.skip("transformers has no sdpa for gemma2")
        model = tiny_model(architecture, 512, attn_implementation=request.param)
        assert model.config._attn_implementation == request.param
        return model.train(training).base_model

    return build


@pytest.mark.parametrize("architecture", ARCHITECTURES)
class TestHiddenStates:
    @pytest.mark.parametrize("training", [False, True])
    @torch.no_grad()
    def test_as_each_alone(self, decoder, architecture, training):
        model, batch = decoder(architecture, training=training), sequences()
        packed = packed_hidden_states(model, batch, CPU)
        for tokens, found in zip(batch, packed, strict=True):
            [alone] = hidden_states(model, [tokens], CPU)
            torch.testing.assert_close(found, alone, atol=1e-5, rtol=1e-5)

    @torch.no_grad()
    def test_other_sequences_of_the_row_change_nothing(self, decoder, architecture):
        model, batch = decoder(architecture), sequences()
        others = [batch[0], *sequences(seed=1)[1:]]
        found = [packed_hidden_states(model, rows, CPU)[0] for rows in (batch, others)]
        assert torch.equal(*found)
        changed = [*sequences(seed=1)[:-1], batch[-1]]
        found = [packed_hidden_states(model, rows, CPU)[-1] for rows in (batch, changed)]
        torch.testing.assert_close(*found, atol=1e-6, rtol=0)

    def test_gradients_are_the_same(self, decoder, architecture):
        model, batch = decoder(architecture, training=True), sequences()
        weights = [torch.randn(n, 32, generator=torch.manual_seed(n)) for n in LENGTHS]
        gradients = []
        for read in (hidden_states, packed_hidden_states):
            model.zero_grad()
            states = read(model, batch, CPU)
            sum((w * s).sum() for w, s in zip(weights, states, strict=True)).backward()
            gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
        for ours, expected in zip(*gradients, strict=True):
            scale = expected.abs().max().item()
            torch.testing.assert_close(ours, expected, atol=1e-5 * scale + 1e-7, rtol=1e-4)


class TestCheck:
    @pytest.mark.parametrize("architecture", ARCHITECTURES)
    def test_passes_and_leaves_the_mode(self, tiny_model, architecture):
        model = tiny_model(architecture, 512).train()
        check_packing(model, "toy")
        assert model.training

    def test_a_model_that_loses_the_positions_is_refused(self, tiny_model):
        model = tiny_model("gpt2", 512)
        original = model.base_model.forward

        def shifted(*args, position_ids=None, **more):
            row = torch.arange(position_ids.shape[1]).expand(position_ids.shape)
            places = model.base_model.wpe.weight
            embedded = model.base_model.wte(more.pop("input_ids")) + places[row]
            embedded -= places[position_ids]
            return original(*args, inputs_embeds=embedded, position_ids=position_ids, **more)

        model.base_model.forward = shifted
        with pytest.raises(ValueError, match="packed documents see each other"):
            check_packing(model, "toy")

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_a_model_that_mixes_is_refused(self, tiny_model, tokenizers, dtype):
        model = tiny_model("llama", 512).to(dtype)
        check_packing(model, "toy")
        layer = model.base_model.layers[0]
        original = layer.self_attn.forward

        def unmasked(*args, attention_mask=None, **more):
            if attention_mask is not None:  # forgets where documents begin
                attention_mask = torch.full(attention_mask.shape, True).tril()
            return original(*args, attention_mask=attention_mask, **more)

        layer.self_attn.forward = unmasked
        LanguageModel.wrap(model, tokenizers["bytelevel"])
        expected = r'bytelevel: packed documents see each other in Llama.*"sdpa".*packing: false'
        with pytest.raises(ValueError, match=expected):
            LanguageModel.wrap(model, tokenizers["bytelevel"], packing=True)

    def test_the_source_switches_it_on(self, language_model, tmp_path):
        saved = language_model("llama")
        saved.model.save_pretrained(tmp_path)
        for packing in (False, True):
            source = ModelSource(str(tmp_path), packing=packing)
            assert LanguageModel.load(source, saved.tokenizer).packing is packing


def test_signals_are_those_of_padded_batches(tiny_model, tokenizers, documents):
    models = [
        LanguageModel.wrap(tiny_model("gemma3", 512), tokenizers["bytelevel"], packing=packing)
        for packing in (False, True)
    ]
    padded, packed = (Teacher(model, [Alm()], 128).signals(documents) for model in models)
    for [expected], [found] in zip(padded, packed, strict=True):
        np.testing.assert_array_equal(found.byte_ends, expected.byte_ends)
        np.testing.assert_allclose(found.logprob, expected.logprob, atol=1e-5)


def test_an_empty_document_in_a_row(tiny_model, tokenizers):
    model = LanguageModel.wrap(tiny_model("llama", 512), tokenizers["bytelevel"], packing=True)
    empty, full = model.predictions([text_document("e", ""), text_document("d", "two words")])
    assert len(empty.tokens) == 1
    assert full.scored.sum() == len(full.tokens) - 1


class TestRows:
    @given(st.lists(st.integers(1, 30), min_size=1, max_size=20))
    def test_each_once_and_no_row_too_long(self, lengths):
        rows = packed_rows(lengths)
        assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
        assert max(sum(lengths[i] for i in row) for row in rows) == max(lengths)

    @given(
        st.lists(st.integers(1, 30), max_size=25),
        st.integers(1, 90),
        st.booleans(),
    )
    def test_batches_stay_within_the_budget(self, lengths, budget, packing):
        batches = token_budget_batches(lengths, budget, packing=packing)
        assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
        for batch in batches:
            sizes = [lengths[index] for index in batch]
            rows = len(packed_rows(sizes)) if packing else len(sizes)
            assert rows == 1 or rows * max(sizes) <= budget

    def test_packing_needs_fewer_batches(self):
        lengths = [100, *[20] * 5]
        assert len(token_budget_batches(lengths, 200)) == 2
        assert len(token_budget_batches(lengths, 200, packing=True)) == 1
