"""Members with unlike tokens, mixed byte by byte."""

from collections.abc import Callable

import pytest
import torch

from losses.document import text_document
from losses.mixture.targets import combine_logprobs
from orchestrator.ensembling import Ensemble, EnsembleMember, EnsembleOptions, Search, bytes
from orchestrator.ensembling.bytes import ByteReader
from orchestrator.ensembling.prompts import read_prompt

Enumeration = Callable[..., torch.Tensor]

EXACT = Search(width=10**6, epsilon=0.0, healed_tokens=100)


def reader_of(
    member: EnsembleMember, prompt: str, search: Search = EXACT, *, use_cache: bool = True
) -> ByteReader:
    tokens = read_prompt(member.model.tokenizer, prompt)
    return ByteReader(member.model, tokens, search, use_cache=use_cache)


@pytest.fixture(scope="module")
def unlike(member: Callable[..., EnsembleMember]) -> list[EnsembleMember]:
    return [member("words", 2.0, seed=1), member("pairs", 1.0, seed=2)]


class TestReader:
    """One member's next byte."""

    @pytest.mark.parametrize("name", ["words", "pairs", "bytes"])
    def test_equals_enumeration(
        self, member: Callable[..., EnsembleMember], enumeration: Enumeration, name: str
    ):
        one = member(name)
        start = [one.model.tokenizer.start_id]
        reader, text = reader_of(one, "he"), "hello w"
        for end in range(2, len(text) + 1):
            expected = enumeration(one.model, start, text[:end].encode())
            torch.testing.assert_close(reader.logprobs(), expected, atol=1e-4, rtol=0)
            reader.read(ord(text[end]) if end < len(text) else ord("o"))

    def test_a_prompt_may_end_inside_a_word(
        self, member: Callable[..., EnsembleMember], enumeration: Enumeration
    ):
        one = member("words")
        expected = enumeration(one.model, [one.model.tokenizer.start_id], b"hel")
        healed = reader_of(one, "hel").logprobs()
        torch.testing.assert_close(healed, expected, atol=1e-4, rtol=0)
        unhealed = reader_of(one, "hel", Search(10**6, 0.0, 0)).logprobs()
        assert (unhealed - expected).abs().max() > 0.01

    @pytest.mark.parametrize("settled_after", [1, 2, 100])
    def test_reading_for_good_changes_nothing(
        self,
        member: Callable[..., EnsembleMember],
        monkeypatch: pytest.MonkeyPatch,
        settled_after: int,
    ):
        one = member("words", initializer_range=0.6)
        search = Search(width=4, epsilon=0.02)
        rows = []
        for after in (settled_after, 4):
            monkeypatch.setattr(bytes, "SETTLED_AFTER", after)
            reader = reader_of(one, "hello", search)
            for byte in b" world hello wo":
                reader.read(byte)
            rows.append(reader.logprobs())
        torch.testing.assert_close(*rows, atol=1e-4, rtol=0)

    def test_the_cache_changes_nothing(self, member: Callable[..., EnsembleMember]):
        one, rows = member("words", architecture="gemma3"), []
        for use_cache in (True, False):
            reader = reader_of(one, "hello", Search(), use_cache=use_cache)
            for byte in b" world hello wo":
                reader.read(byte)
            rows.append(reader.logprobs())
        torch.testing.assert_close(*rows, atol=1e-4, rtol=0)

    def test_goes_on_where_no_history_can(self, member: Callable[..., EnsembleMember]):
        """With one history only, most bytes that it does not expect lead nowhere."""
        one = member("words", initializer_range=0.6)
        reader, text = reader_of(one, "he", Search(1, 0.9, 0)), b"zzhell wwoll ell"
        for byte in text:
            reader.read(byte)
            assert reader.logprobs() is not None
        tokens = reader._whole(reader._states[0].history)[reader._origin :]
        assert text.startswith(reader._bytes_of(tokens))

    def test_byte_tokens_make_it_exact(self, member: Callable[..., EnsembleMember]):
        one = member("bytes")
        narrow, wide = (reader_of(one, "hell", s) for s in (Search(1, 0.9, 0), EXACT))
        for byte in b"o wz":
            narrow.read(byte)
            wide.read(byte)
            torch.testing.assert_close(narrow.logprobs(), wide.logprobs(), atol=1e-4, rtol=0)


class TestEnsemble:
    """Two of them, or more."""

    @pytest.mark.parametrize("mean", ["arithmetic", "geometric"])
    def test_writes_what_enumeration_would(
        self, unlike: list[EnsembleMember], enumeration: Enumeration, mean: str
    ):
        [found] = Ensemble(unlike, EnsembleOptions(mean, search=EXACT)).generate(
            ["he"], max_new_bytes=4, temperature=0.0
        )
        text, nats = b"he", 0.0
        for _ in range(4):
            rows = [enumeration(m.model, [m.model.tokenizer.start_id], text) for m in unlike]
            weights, present = torch.tensor([2.0, 1.0]), torch.ones(2, 1, dtype=torch.bool)
            row = combine_logprobs(torch.stack(rows)[:, None], weights, present, mean)[0]
            symbol = int(row.argmax())
            nats -= float(row[symbol])
            if symbol == 256:
                break
            text += chr(symbol).encode("latin-1")
        assert found.content == text[2:]
        assert found.nats == pytest.approx(nats, abs=1e-4)

    def test_order_and_cache_change_nothing(self, unlike: list[EnsembleMember]):
        options = [EnsembleOptions(use_cache=cache) for cache in (True, False)]
        ensembles = [
            Ensemble(unlike, options[0]),
            Ensemble(unlike[::-1]),
            Ensemble(unlike, options[1]),
        ]
        written = [e.generate(["he", "wo"], max_new_bytes=10, seed=4) for e in ensembles]
        assert [w.content for w in written[0]] == [w.content for w in written[1]]
        assert [w.content for w in written[0]] == [w.content for w in written[2]]
        scores = [e.score(["hello world"]).nats for e in ensembles]
        assert scores == pytest.approx([scores[0]] * 3, rel=1e-9)

    def test_one_member_is_that_member(self, member: Callable[..., EnsembleMember]):
        one = member("words")
        found = Ensemble([one], EnsembleOptions(interface="bytes")).score(["hello world"])
        assert found.bits_per_byte == found.members["words0"]
        assert found.lead.value == 0.0

    def test_bytes_of_a_byte_model_are_its_tokens(self, member: Callable[..., EnsembleMember]):
        members = [member("bytes", seed=1), member("bytes", 2.0, seed=2)]
        found = [Ensemble(members, EnsembleOptions(interface=i)) for i in ("tokens", "bytes")]
        assert [e.interface for e in found] == ["tokens", "bytes"]
        texts = ["hello world", "naïve 🙂"]
        scores = [e.score(texts) for e in found]
        # Half precision, and what a model gives to <|im_end|>, which is no byte.
        assert scores[0].bits_per_byte == pytest.approx(scores[1].bits_per_byte, rel=0.01)
        written = [e.generate(["he"], max_new_bytes=12, temperature=0.0)[0] for e in found]
        assert written[0].content == written[1].content
        assert written[0].nats == pytest.approx(written[1].nats, rel=1e-4)

    def test_members_and_own_tokens_are_told(self, unlike: list[EnsembleMember]):
        found = Ensemble(unlike).score(["hello world", "well"])
        assert found.interface == "bytes"
        assert found.num_bytes == 15
        assert set(found.members) == set(found.by_own_tokens) == {"words1", "pairs2"}
        assert found.bits_per_byte < sum(found.members.values()) / 2 + 0.5
        assert found.documents[0].nats + found.documents[1].nats == pytest.approx(found.nats)
        assert found.documents[0].name == "text 0"
        again = Ensemble(unlike).score([text_document("a", "hello world")])
        assert again.nats == pytest.approx(found.documents[0].nats, rel=1e-6)
