"""Signals do not depend on how documents were batched, and one forward serves every method."""

import math
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic.dataclasses import dataclass

from losses.base import OPTIONS, Method
from losses.document import Document, Segment, text_document
from losses.methods.alm import Alm
from losses.methods.kl import Kl
from losses.mixture import TeacherScore, Unusable
from losses.prediction import Head, Prediction
from losses.signals import IdentifiedStates, Signal, TokenLikelihoods, pack, unpack
from teachers.actor import TeacherSpec
from teachers.backends.transformers import LanguageModel
from teachers.batching import token_budget_batches
from teachers.document_score import DocumentScore
from teachers.evaluation import bits_per_byte, score
from teachers.source import ModelSource
from teachers.teacher import Teacher

BUDGETS = [1, 40, 100, 4096]


@dataclass(frozen=True, config=OPTIONS)
class Named(Method):
    """Sends the document's length, to show whose signal came back where."""

    def signal(self, teacher: Prediction, document: Document) -> TokenLikelihoods:
        length = np.array([len(document.content)], dtype=np.int32)
        return TokenLikelihoods(length, *2 * [np.zeros(1, np.float32)])

    def loss(self, student, signal, pair, modules):
        raise NotImplementedError

    def num_units(self, tokens, scored, signal, pair):
        raise NotImplementedError


class Counter:
    """Counts a module's forward calls and remembers the padded sizes."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.sizes: list[int] = []
        module.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, module: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        self.sizes.append(kwargs["input_ids"].numel())


def close(ours: Signal, expected: Signal) -> None:
    """Every array of two signals agrees to 1e-5."""
    assert type(ours) is type(expected)
    for name, value in vars(expected).items():
        np.testing.assert_allclose(getattr(ours, name), value, atol=1e-5, rtol=0)


class TestSignals:
    @pytest.mark.parametrize("budget", BUDGETS)
    def test_in_document_order(self, language_model, documents, budget):
        found = Teacher(language_model(), [Named()], budget).signals(documents)
        assert [row[0].byte_ends[0] for row in found] == [len(d.content) for d in documents]

    @pytest.mark.parametrize("budget", BUDGETS)
    @pytest.mark.parametrize("tokenizer", ["bytelevel", "sentencepiece"])
    def test_same_for_any_budget(self, language_model, documents, budget, tokenizer):
        model = language_model("gemma2", tokenizer)
        alone = Teacher(model, [Kl(), Alm()])
        expected = [alone.signals([document])[0] for document in documents]
        found = Teacher(model, [Kl(), Alm()], budget).signals(documents)
        for ours, theirs in zip(found, expected, strict=True):
            for mine, other in zip(ours, theirs, strict=True):
                close(mine, other)

    def test_one_forward_serves_all_methods(self, language_model, documents):
        model = language_model()
        counter = Counter(model.model.base_model)
        [row, *_] = Teacher(model, [Kl(), Alm(), Alm(debias=False)], 10**6).signals(documents)
        assert len(counter.sizes) == 1
        assert [type(s) for s in row] == [IdentifiedStates, TokenLikelihoods, TokenLikelihoods]

    def test_forwards_stay_within_the_budget(self, language_model, documents):
        model = language_model()
        lengths = [len(tokens) for tokens in model.tokenizer.encode(documents)]
        counter = Counter(model.model.base_model)
        Teacher(model, [Named()], 60).signals(documents)
        assert len(counter.sizes) > 1
        assert all(size <= max(60, max(lengths)) for size in counter.sizes)

    def test_long_documents_are_read_in_chunks(self, language_model, documents):
        model = language_model()
        calls: list[int] = []
        model.head.linear.register_forward_hook(lambda *args: calls.append(len(args[2])))
        expected = Teacher(model, [Alm()]).signals(documents)
        whole, calls[:] = len(calls), []
        small = replace(model, elements_in_memory=3 * 512)
        for ours, theirs in zip(Teacher(small, [Alm()]).signals(documents), expected, strict=True):
            close(ours[0], theirs[0])
        assert len(calls) > whole == len(documents)
        assert max(calls) == 3

    def test_nothing_scored_and_empty(self, language_model):
        silent = Document("silent", (Segment("prompt", b"nothing counts", False),))
        teacher = Teacher(language_model(), [Kl(), Alm()])
        for states, likelihoods in teacher.signals([silent, text_document("empty", "")]):
            assert len(states.hidden) == 0
            assert np.isnan(likelihoods.logprob).all()

    @pytest.mark.parametrize("packing", [False, True])
    def test_not_finite_says_nothing(self, language_model, documents, packing, caplog):
        """The other documents' signals are those of a batch without it, or almost."""
        model = replace(language_model(), packing=packing)
        expected = Teacher(model, [Alm(), Kl()], asks="ce").signals(documents)
        ids = [set(tokens.ids.tolist()) for tokens in model.tokenizer.encode(documents)]
        poison = ids[3] - (ids[0] | ids[1] | ids[2] | ids[4])
        model.model.get_input_embeddings().weight.data[sorted(poison)] = torch.inf
        with caplog.at_level("INFO"):
            found = Teacher(model, [Alm(), Kl()], asks="ce").signals(documents)
        assert found[3] == (Unusable(found[3][0].reason),) * 2 + (TeacherScore(0.0, 0, 0),)
        assert "hidden states are not finite" in found[3][0].reason
        assert "document d3 says nothing: its hidden states" in caplog.text
        for place in (0, 1, 2, 4):
            for ours, theirs in zip(found[place], expected[place], strict=True):
                close(ours, theirs)

    def test_signals_that_are_not_finite(self, language_model, documents):
        model = language_model()

        class Broken(Named):
            def signal(self, teacher: Prediction, document: Document) -> TokenLikelihoods:
                said = super().signal(teacher, document)
                value = np.inf if document.name == "d1" else 0.0
                return replace(said, border_logprob=np.full(1, value, np.float32))

        found = Teacher(model, [Broken()]).signals(documents)
        assert [type(row[0]) is Unusable for row in found] == [d.name == "d1" for d in documents]
        assert found[1][0].reason == "border_logprob of its TokenLikelihoods is not finite"

    def test_no_gradient_and_no_dropout(self, tiny_model, tokenizers, documents):
        model = tiny_model("gpt2", 512, resid_pdrop=0.5).train()
        teacher = Teacher(LanguageModel.wrap(model, tokenizers["bytelevel"]), [Alm()])
        assert not any(p.requires_grad for p in model.parameters())
        first, second = teacher.signals(documents), teacher.signals(documents)
        np.testing.assert_array_equal(first[0][0].logprob, second[0][0].logprob)

    def test_likelihoods_are_twelve_bytes_a_token(self, language_model, documents):
        teacher = Teacher(language_model(), [Alm()])
        for tokens, [signal] in zip(
            teacher.model.tokenizer.encode(documents), teacher.signals(documents), strict=True
        ):
            assert signal.num_bytes == 12 * len(tokens)

    def test_signals_pickle_whole(self, language_model, documents):
        [row, *_] = Teacher(language_model(), [Kl(), Alm()]).signals(documents)
        for ours, theirs in zip(pickle.loads(pickle.dumps(row)), row, strict=True):
            close(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("architecture", ["llama", "gemma2", "cohere", "granite", "phi"])
def test_head_weights_round_trip(tiny_model, tokenizers, architecture, dtype):
    model = LanguageModel.wrap(tiny_model(architecture, 512 + 3).to(dtype), tokenizers["bytelevel"])
    sent = pickle.loads(pickle.dumps(Teacher(model, []).head_weights()))
    head = sent.head(torch.device("cpu"))
    hidden = torch.randn(6, 32, generator=torch.Generator().manual_seed(0)).to(dtype)
    with torch.no_grad():
        assert torch.equal(head.logits(hidden), model.head.logits(hidden))
    assert sent.weight.shape == (512, 32)
    assert (sent.bias is not None) == (architecture == "phi")
    assert not any(p.requires_grad for p in head.linear.parameters())


def test_head_can_be_used_by_a_method(language_model, documents):
    """Hidden states and the head that was sent give the teacher's own distributions."""
    model = language_model("gemma2")
    teacher = Teacher(model, [Kl()])
    head: Head = teacher.head_weights().head(torch.device("cpu"))
    [[states]] = teacher.signals(documents[:1])
    rebuilt = torch.log_softmax(head.logits(unpack(states.hidden)), -1)
    with torch.no_grad():
        [prediction] = model.predictions(documents[:1])
        own = prediction.map_rows(lambda table: table, prediction.scored_positions - 1)
    torch.testing.assert_close(rebuilt, own, atol=1e-6, rtol=0)


@given(st.sampled_from([torch.float32, torch.bfloat16, torch.float64]), st.integers(0, 5))
def test_pack_round_trip(dtype, rows):
    tensor = torch.randn(rows, 3, generator=torch.Generator().manual_seed(rows)).to(dtype)
    assert torch.equal(unpack(pack(tensor)), tensor)


class TestEvaluation:
    @pytest.mark.parametrize("budget", BUDGETS)
    def test_bits_by_hand(self, language_model, documents, budget):
        model = language_model("gemma2")
        found = Teacher(model, [], budget).evaluate(documents)
        nats, num_bytes = 0.0, 0
        for document, row in zip(documents, found, strict=True):
            ids = [0, *model.tokenizer.fast(document.content.decode())["input_ids"]]
            with torch.no_grad():
                logits = model.model(input_ids=torch.tensor([ids])).logits[0, :-1]
            own = torch.nn.functional.cross_entropy(
                logits.double(), torch.tensor(ids[1:]), reduction="sum"
            ).item()
            assert row.nats == pytest.approx(own, abs=1e-3)
            assert (row.num_bytes, row.num_tokens) == (len(document.content), len(ids) - 1)
            nats, num_bytes = nats + own, num_bytes + len(document.content)
        assert bits_per_byte(found) == pytest.approx(nats / math.log(2) / num_bytes, rel=1e-5)

    def test_only_the_completion_counts(self, language_model):
        segments = (Segment("prompt", b"2 + 2 = ", False), Segment("completion", b"4 or so", True))
        [row] = score(language_model(), [Document("d", segments)], 100)
        assert row.num_bytes == 7

    def test_nothing_scored_is_an_error(self):
        with pytest.raises(ValueError, match="no byte was scored"):
            bits_per_byte([DocumentScore(0.0, 0, 0)])


@given(st.lists(st.integers(0, 50), max_size=30), st.integers(1, 120))
def test_batches_hold_every_index_once_within_the_budget(lengths, budget):
    batches = token_budget_batches(lengths, budget)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert batch
        padded = max(lengths[i] for i in batch) * len(batch)
        assert padded <= budget or len(batch) == 1


def test_spec_builds_its_teacher(language_model, tmp_path, documents):
    model = language_model("llama", "sentencepiece")
    model.model.save_pretrained(tmp_path)
    model.tokenizer.fast.save_pretrained(tmp_path)
    spec = TeacherSpec("t", ModelSource(str(tmp_path)), (Alm(),), start_token="<eos>")
    built = pickle.loads(pickle.dumps(spec)).build()
    assert built.model.tokenizer.encode(documents)[0].ids[0] == 1
    assert built.budget.tokens == 4096
    assert len(built.signals(documents)) == len(documents)
