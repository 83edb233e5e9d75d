"""Members with one vocabulary."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from losses.document import chat_document, text_document
from orchestrator.ensembling import Ensemble, EnsembleMember, EnsembleOptions
from orchestrator.ensembling.ends import end_ids
from orchestrator.ensembling.prompts import read_prompt
from orchestrator.ensembling.tokens import TokenReader
from orchestrator.errors import ConfigError
from teachers.backends.transformers import LanguageModel
from teachers.evaluation import score
from teachers.tokenizer import Tokenizer

TokenProbs = Callable[..., torch.Tensor]
Fast = Callable[..., Any]
Merges = list[tuple[str, str]]

TEXTS = ["hello world", "well, hell"]
TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}END\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


@pytest.fixture(scope="module")
def two(member: Callable[..., EnsembleMember]) -> list[EnsembleMember]:
    return [member("words", 3.0, seed=1), member("words", 1.0, seed=2)]


@pytest.mark.parametrize("mean", ["arithmetic", "geometric"])
def test_score_is_the_mean_by_hand(two: list[EnsembleMember], mean: str, token_probs: TokenProbs):
    model = two[0].model
    [tokens] = model.encode([text_document("d", TEXTS[0])])
    ids, nats = tokens.ids.tolist(), 0.0
    for place in range(1, len(ids)):
        rows = [token_probs(m.model, ids[:place]) for m in two]
        if mean == "arithmetic":
            chance = 0.75 * rows[0][ids[place]] + 0.25 * rows[1][ids[place]]
        else:
            product = rows[0] ** 0.75 * rows[1] ** 0.25
            chance = product[ids[place]] / product.sum()
        nats -= math.log(chance)
    found = Ensemble(two, EnsembleOptions(mean)).score(TEXTS)
    assert found.interface == "tokens"
    assert found.documents[0].nats == pytest.approx(nats, rel=1e-5)
    size = len(TEXTS[0].encode())
    assert found.documents[0].bits_per_byte == pytest.approx(nats / math.log(2) / size, rel=1e-5)
    assert found.num_bytes == sum(len(text.encode()) for text in TEXTS)
    assert found.weights == {"words1": 0.75, "words2": 0.25}


@pytest.mark.parametrize("mean", ["arithmetic", "geometric"])
def test_one_member_is_that_member(two: list[EnsembleMember], mean: str):
    found = Ensemble(two[:1], EnsembleOptions(mean)).score(TEXTS)
    documents = [text_document(str(place), text) for place, text in enumerate(TEXTS)]
    own = score(two[0].model, documents, 2048)
    assert [d.nats for d in found.documents] == pytest.approx([s.nats for s in own], rel=1e-6)
    assert found.bits_per_byte == pytest.approx(found.by_own_tokens["words1"], rel=1e-6)


def test_order_changes_nothing(two: list[EnsembleMember]):
    one, other = Ensemble(two), Ensemble(two[::-1])
    assert one.score(TEXTS).nats == pytest.approx(other.score(TEXTS).nats, rel=1e-12)
    written = [e.generate(["hello"], max_new_tokens=12, seed=3)[0].content for e in (one, other)]
    assert written[0] == written[1]


def test_cache_changes_nothing(two: list[EnsembleMember]):
    found = [
        Ensemble(two, EnsembleOptions(use_cache=cache)).generate(["he", "o"], 12, temperature=0.0)
        for cache in (True, False)
    ]
    assert [w.content for w in found[0]] == [w.content for w in found[1]]
    assert [w.nats for w in found[0]] == pytest.approx([w.nats for w in found[1]], rel=1e-4)


def test_greedy_takes_the_likeliest_token_of_the_mean(
    two: list[EnsembleMember], token_probs: TokenProbs
):
    [found] = Ensemble(two).generate(["hello"], 6, temperature=0.0)
    vocabulary = two[0].model.tokenizer.vocabulary
    ids, text = two[0].model.encode([text_document("d", "hello")])[0].ids.tolist(), b""
    for _ in range(6):
        rows = [token_probs(m.model, ids) for m in two]
        rows = [row[:-2] / (row[:-2].sum() + row[-2]) for row in rows]  # <|endoftext|> ends
        ids.append(int((0.75 * rows[0] + 0.25 * rows[1]).argmax()))
        text += vocabulary.token_bytes[ids[-1]]
    assert (found.content, found.num_drawn, found.stopped) == (text, 6, "length")


def test_draws_depend_on_seed_and_place(two: list[EnsembleMember]):
    ensemble = Ensemble(two)
    first, second = ensemble.generate(["hello"] * 2, 16, seed=1)
    assert first.content != second.content
    assert ensemble.generate(["hello"], 16, seed=1)[0] == first
    assert ensemble.generate(["hello"], 16, seed=2)[0].content != first.content
    assert len(ensemble.generate(["hello"], max_new_bytes=9)[0].content) >= 9


@pytest.fixture(scope="module")
def chatting(
    tiny_model: Callable[..., Any], fast_of: Fast, all_merges: Merges
) -> list[EnsembleMember]:
    members = []
    for seed, end in enumerate(["<|im_end|>", "<|endoftext|>"]):
        fast = fast_of(all_merges)
        fast.chat_template = TEMPLATE.replace("END", end)
        tokenizer = Tokenizer(fast, end)
        model = tiny_model("llama", len(tokenizer.vocabulary), seed=seed)
        members.append(EnsembleMember(end, LanguageModel.wrap(model, tokenizer)))
    return members


class TestEnds:
    """Members whose turns end with different tokens."""

    def test_an_end_of_turn_is_one_outcome(
        self, chatting: list[EnsembleMember], token_probs: TokenProbs
    ):
        chat = chat_document("c", [("user", "he"), ("assistant", "ll")])
        found = Ensemble(chatting).score([chat])
        assert found.interface == "tokens"
        chances: dict[str, list[float]] = {"ll": [], "end": []}
        for one in chatting:
            fast = one.model.tokenizer.fast
            ids = fast(f"user: he{one.name}\nassistant: ")["input_ids"]
            [content], [end] = fast("ll")["input_ids"], fast(one.name)["input_ids"]
            chances["ll"].append(float(token_probs(one.model, ids)[content]))
            chances["end"].append(float(token_probs(one.model, [*ids, content])[end]))
        nats = [-math.log(sum(found) / 2) for found in chances.values()]
        assert found.nats == pytest.approx(sum(nats), rel=1e-5)
        assert found.num_bytes == 3

    def test_the_end_sums_each_members_own_ending_tokens(
        self, chatting: list[EnsembleMember], token_probs: TokenProbs
    ):
        for one, names in zip(chatting, (["<|im_end|>", "<|endoftext|>"],) * 2, strict=True):
            fast = one.model.tokenizer.fast
            names = [name for name in names if name in (one.name, fast.eos_token)]
            ids, ends = fast("he")["input_ids"], fast.convert_tokens_to_ids(names)
            probs = token_probs(one.model, [one.model.tokenizer.start_id, *ids])
            end = float(probs[ends].sum())
            reader = TokenReader(one.model, read_prompt(one.model.tokenizer, "he"), use_cache=False)
            row = reader.logprobs().exp()
            text = float(probs[: len(probs) - 2].sum())  # the specials come last
            assert float(row[-1]) == pytest.approx(end / (text + end), rel=1e-5)
            assert float(row[:-1].sum()) == pytest.approx(text / (text + end), rel=1e-5)
        assert [len(end_ids(one.model)) for one in chatting] == [2, 1]


def test_other_merges_are_refused(
    tiny_model: Callable[..., Any], fast_of: Fast, all_merges: Merges
):
    members = []
    for seed, merges in enumerate((all_merges, [("e", "l"), *all_merges[:-1]])):
        tokenizer = Tokenizer(fast_of(merges), f"m{seed}")
        model = tiny_model("llama", len(tokenizer.vocabulary))
        members.append(EnsembleMember(f"m{seed}", LanguageModel.wrap(model, tokenizer)))
    with pytest.raises(ValueError, match=r"text 0: members with one vocabulary cut it into diff"):
        Ensemble(members).score(["hello"])
    assert Ensemble(members, EnsembleOptions(interface="bytes")).score(["hello"]).num_bytes == 5


class TestRefusals:
    def test_unlike_vocabularies(self, member: Callable[..., EnsembleMember]):
        members = [member("words"), member("pairs")]
        assert Ensemble(members).interface == "bytes"
        with pytest.raises(ConfigError, match="2 different vocabularies"):
            Ensemble(members, EnsembleOptions(interface="tokens"))
        with pytest.raises(ValueError, match="max_new_tokens has no meaning where bytes"):
            Ensemble(members).generate(["he"], max_new_tokens=3)

    def test_members(self, member: Callable[..., EnsembleMember]):
        with pytest.raises(ConfigError, match="the members are none"):
            Ensemble([])
        with pytest.raises(ConfigError, match="with names that differ"):
            Ensemble([member("words"), member("words")])
        with pytest.raises(ConfigError, match=r"has the weight 0\.0"):
            Ensemble([member("words", 0.0)])

    def test_texts_and_limits(self, two: list[EnsembleMember]):
        ensemble = Ensemble(two)
        with pytest.raises(ValueError, match="text 1 is empty"):
            ensemble.score(["he", ""])
        with pytest.raises(ValueError, match="max_new_bytes is 0; expected at least 1"):
            ensemble.generate(["he"], max_new_bytes=0)
        with pytest.raises(ValueError, match=r"temperature is -1.0; expected 0 or more"):
            ensemble.generate(["he"], temperature=-1.0)
