"""A chat is read as the model's own template writes it, and its bytes lie where they should."""

from copy import deepcopy
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken
from torch import nn
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from losses.alignment.chunks import align, live_chunks
from losses.alignment.tokens import Tokens, byte_starts
from losses.base import Pair
from losses.document import Document, Segment, chat_document, text_document
from losses.methods.alm import Alm
from orchestrator.assets import resolve
from orchestrator.assets.toy.tokenizers import byte_level_tokenizer, sentencepiece_tokenizer
from teachers.backends.transformers import LanguageModel
from teachers.chat_tokens import end_of_turn_id
from teachers.source import ModelSource
from teachers.teacher import Teacher
from teachers.tokenizer import Tokenizer, UnfaithfulTokenizer

FAMILIES = {"bytelevel": byte_level_tokenizer, "sentencepiece": sentencepiece_tokenizer}
TURN = "<|turn|>{{ m.role }}\n{{ m.content }}<|end|>\n"
CHATML = f"{{% for m in messages %}}{TURN}{{% endfor %}}"
TEMPLATES = {
    "chatml": CHATML,
    "system": "{% if messages[0].role != 'system' %}<|turn|>system\nBe kind.<|end|>\n{% endif %}"
    f"{{% for m in messages %}}{TURN}{{% endfor %}}",
    "text before the end": "{% for m in messages %}<|turn|>{{ m.content }}\n--\n<|end|>"
    "{% endfor %}",
    "merged system": "{% for m in messages %}{% if m.role == 'system' %}<|turn|>({{ m.content }})"
    "{% else %}[{{ m.content }}]<|end|>{% endif %}{% endfor %}",
    "no end": "{% for m in messages %}{{ m.role }}: {{ m.content }}\n\n{% endfor %}",
    "bare": "{% for m in messages %}{{ m.content }}{% endfor %}",
}
TRIMMING = "{% for m in messages %}<|turn|>{{ m.content | trim }}<|end|>{% endfor %}"
WITH_END = ("chatml", "system", "text before the end", "merged system")

WORDS = st.characters(codec="utf-8", exclude_characters="▁\ue000\ue001") | st.sampled_from(
    [*" \n.é🙂", "the ", ".\n", "user"]
)
CONTENTS = (
    st.lists(WORDS, min_size=1, max_size=12).map("".join).filter(lambda text: "<" not in text)
)
CHATS = st.lists(st.tuples(CONTENTS, CONTENTS), min_size=1, max_size=3).map(
    lambda turns: [pair for u, a in turns for pair in (("user", u), ("assistant", a))]
)
TALK = [("user", "What is 2+2?"), ("assistant", "It is 4."), ("user", "Why?"), ("assistant", "So.")]


def chat(messages: list[tuple[str, str]] = TALK) -> Document:
    return chat_document("talk.jsonl:3", messages)


def rows(messages: list[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in messages]


def own_ids(fast: PreTrainedTokenizerFast, messages: list[tuple[str, str]]) -> list[int]:
    found = fast.apply_chat_template(rows(messages), tokenize=True, return_dict=True)
    return list(found["input_ids"])


def pieces(tokens: Tokens, content: bytes) -> list[bytes]:
    """The document's bytes under each token."""
    starts = byte_starts(tokens.byte_ends)
    return [content[a : max(a, b)] for a, b in zip(starts, tokens.byte_ends, strict=True)]


def scored_content(tokens: Tokens, document: Document) -> bytes:
    """The bytes under the tokens that count."""
    cut = pieces(tokens, document.content)
    return b"".join(cut[p] for p in np.flatnonzero(tokens.scored(document.scored)))


def read(tokenizer: Tokenizer, document: Document) -> Tokens:
    [found] = tokenizer.read([document])
    if isinstance(found, UnfaithfulTokenizer):
        raise found
    return found


def reason(tokenizer: Tokenizer, messages: list[tuple[str, str]]) -> str:
    [found] = tokenizer.read([chat(messages)])
    assert isinstance(found, UnfaithfulTokenizer), "the chat was not refused"
    assert str(found).startswith("document talk.jsonl:3: toy cannot read this chat: ")
    return found.reason


@pytest.fixture(scope="module")
def toy(toy_texts: list[str]):
    """Build the reader of a toy tokenizer with two special tokens of its own and a template."""
    plain = {name: build(toy_texts[:100]) for name, build in FAMILIES.items()}
    for fast in plain.values():
        fast.add_special_tokens({"additional_special_tokens": ["<|turn|>", "<|end|>"]})

    @cache
    def build(jinja: str | None = CHATML, family: str = "bytelevel", choice=None) -> Tokenizer:
        fast = deepcopy(plain[family])
        fast.chat_template = jinja
        return Tokenizer(fast, "toy", template=choice)

    return build


class TestOwnTemplate:
    @pytest.mark.parametrize("family", FAMILIES)
    @pytest.mark.parametrize("template", TEMPLATES)
    @settings(max_examples=15)
    @given(messages=CHATS)
    def test_ids_are_those_of_apply_chat_template(self, toy, family, template, messages):
        tokenizer = toy(TEMPLATES[template], family)
        expected = own_ids(tokenizer.fast, messages)
        assert read(tokenizer, chat(messages)).ids.tolist() == expected

    @pytest.mark.parametrize("family", FAMILIES)
    @pytest.mark.parametrize("template", TEMPLATES)
    @settings(max_examples=15)
    @given(messages=CHATS)
    def test_bytes_lie_where_the_contents_are(self, toy, family, template, messages):
        tokenizer, document = toy(TEMPLATES[template], family), chat(messages)
        tokens = read(tokenizer, document)
        ends = tokens.byte_ends[tokens.byte_ends >= 0]
        assert (np.diff(ends) >= 0).all()
        assert ends[-1] == len(document.content)  # every byte is covered
        inside = np.setdiff1d(np.flatnonzero(tokens.byte_ends >= 0), tokens.straddling)
        cut = pieces(tokens, document.content)
        for position in inside:
            index = int(tokens.ids[position])
            is_end = index in tokenizer.vocabulary.roles
            expected = b"\xff" if is_end else tokenizer.vocabulary.token_bytes[index]
            assert cut[position] == expected

    @pytest.mark.parametrize("family", FAMILIES)
    @pytest.mark.parametrize("template", WITH_END)
    @settings(max_examples=15)
    @given(messages=CHATS)
    def test_each_end_of_turn_is_one_scored_event(self, toy, family, template, messages):
        tokenizer, document = toy(TEMPLATES[template], family), chat(messages)
        tokens = read(tokenizer, document)
        scored = tokens.scored(document.scored)
        ends = [p for p, cut in enumerate(pieces(tokens, document.content)) if cut == b"\xff"]
        assert len(ends) == len(messages) // 2
        assert scored[ends].all()
        end = tokenizer.fast.convert_tokens_to_ids("<|end|>")
        assert set(tokens.ids[ends]) == {end} == {end_of_turn_id(tokenizer)}

    def test_only_the_assistant_is_scored(self, toy):
        tokenizer, document = toy(), chat([("system", "Be brief."), *TALK])
        tokens = read(tokenizer, document)
        assert scored_content(tokens, document) == b"It is 4.\xffSo.\xff"
        assert document.num_scored_bytes == len(b"It is 4.+So.+")

    def test_a_cut_turn_has_no_end(self, toy):
        whole = chat(TALK[:2])
        cut = Document(whole.name, whole.segments[:-1])
        tokens = read(toy(), cut)
        assert tokens.ids.tolist() == read(toy(), whole).ids.tolist()
        assert tokens.byte_ends.max() == len(cut.content)
        assert not (set(tokens.ids[tokens.byte_ends >= 0].tolist()) & set(toy().vocabulary.roles))

    def test_the_date_may_change_between_two_chats(self, toy, monkeypatch):
        tokenizer = toy("{{ day }}" + CHATML)
        apply = tokenizer.fast.apply_chat_template
        days = iter(["Monday", "Monday", "Tuesday", "Tuesday"])
        monkeypatch.setattr(
            tokenizer.fast,
            "apply_chat_template",
            lambda *args, **more: apply(*args, day=next(days), **more),
        )
        first, second = tokenizer.read([chat(), chat()])
        assert isinstance(first, Tokens)
        assert isinstance(second, Tokens)
        assert first.ids.tolist() != second.ids.tolist()

    def test_texts_and_chats_keep_their_order(self, toy):
        documents = [text_document("a", "one"), chat(), text_document("b", "two words"), chat()]
        tokenizer = toy()
        together = [tokens.ids.tolist() for tokens in tokenizer.encode(documents)]
        assert together == [tokenizer.encode([d])[0].ids.tolist() for d in documents]


class TestRefusals:
    def test_trimmed_content(self, toy):
        tokenizer = toy(TRIMMING)
        read(tokenizer, chat())
        found = reason(tokenizer, [("user", "Why?"), ("assistant", "So. ")])
        assert found == "the chat template trims white space around a message"

    def test_changed_content(self, toy):
        tokenizer = toy("{% for m in messages %}{{ m.content | replace('q', 'k') }}{% endfor %}")
        read(tokenizer, chat())
        found = reason(tokenizer, [("user", "quit"), ("assistant", "So.")])
        assert found == "the chat template changes the content of a message"

    @pytest.mark.parametrize(
        ("template", "expected"),
        [
            ("{{ messages[-1].content }}", "leaves out a message of role user"),
            ("{{ messages[0].content * 2 }}{{ messages[1].content }}", "repeats a message of role"),
            ("{{ messages[1].content }}{{ messages[0].content }}", "moves or repeats a message"),
            ("{{ raise_exception('only one turn') }}", "the chat template says: only one turn"),
            ("{{ messages + 1 }}", "the chat template fails: "),
        ],
    )
    def test_templates_that_do_not_fit(self, toy, template, expected):
        assert expected in reason(toy(template), TALK[:2])

    @pytest.mark.parametrize("content", ["Say <|end|> now", "<|turn|>", "a<pad>"])
    def test_literal_special_token(self, toy, content):
        found = reason(toy(family="sentencepiece"), [("user", content), ("assistant", "So.")])
        assert found.startswith("a message holds the special token <")

    def test_white_space_taken_by_a_special_token(self, toy_texts):
        fast = byte_level_tokenizer(toy_texts[:40])
        fast.add_tokens([AddedToken("<|turn|>", special=True, rstrip=True, normalized=False)])
        fast.chat_template = "{% for m in messages %}<|turn|>{{ m.content }}{% endfor %}"
        tokenizer = Tokenizer(fast, "toy")
        read(tokenizer, chat())
        found = reason(tokenizer, [("user", " Hi"), ("assistant", "So.")])
        assert found == "a special token of the chat template takes white space of a message"

    def test_what_the_tokenizer_itself_loses(self, toy):
        found = reason(toy(family="sentencepiece"), [("user", "a▁b"), ("assistant", "So.")])
        assert found == "literal ▁ becomes a space"

    def test_encode_raises(self, toy):
        with pytest.raises(UnfaithfulTokenizer, match="trims white space"):
            toy(TRIMMING).encode([chat([("user", " Hi"), ("assistant", "So.")])])


class TestStraddling:
    def test_a_token_over_the_border_does_not_count(self, toy):
        """The template's space and the first word become one token."""
        tokenizer = toy("{% for m in messages %}{{ m.role }}: {{ m.content }}<|end|>{% endfor %}")
        document = chat([("user", "the"), ("assistant", "the value")])
        tokens = read(tokenizer, document)
        cut = pieces(tokens, document.content)
        assert [cut[p] for p in tokens.straddling] == [b"the", b"the"]
        assert scored_content(tokens, document) == b" value\xff"
        assert tokens.num_straddling(document.scored) == 1

    def test_without_an_end_the_next_token_straddles(self, toy):
        document = chat()
        tokens = read(toy(TEMPLATES["no end"]), document)
        cut = pieces(tokens, document.content)
        held = [p for p, piece in enumerate(cut) if b"\xff" in piece]
        assert len(held) == 2
        assert set(held) <= set(tokens.straddling.tolist())
        assert not tokens.scored(document.scored)[held].any()
        assert end_of_turn_id(toy(TEMPLATES["no end"])) is None

    def test_an_uncovered_end_at_the_very_end_spoils_the_last_token(self, toy):
        document = chat(TALK[:2])
        tokens = read(toy(TEMPLATES["bare"]), document)
        assert tokens.straddling[-1] == len(tokens) - 1
        assert tokens.byte_ends[-1] == len(document.content)

    @pytest.mark.parametrize("swapped", [False, True])
    def test_its_chunk_is_dead_on_either_side(self, toy, swapped):
        document = chat()
        sides = [toy(), toy(TEMPLATES["no end"], "sentencepiece")]
        sides = sides[::-1] if swapped else sides
        views = [read(tokenizer, document) for tokenizer in sides]
        found = align(views[0].byte_ends, views[1].byte_ends)
        live = live_chunks(found, *(view.scored(document.scored) for view in views))
        chunks = (found.student_chunk, found.teacher_chunk)
        for view, chunk in zip(views, chunks, strict=True):
            touched = chunk[view.straddling]
            assert not live[touched[touched >= 0]].any()
        assert live.any()

    @pytest.mark.parametrize("swapped", [False, True])
    def test_alm_leaves_its_chunk_out(self, toy, tiny_model, swapped):
        """Only the first word of each answer is lost, and only where one side straddles."""
        spaced = "{% for m in messages %}{{ m.role }}: {{ m.content }}<|end|>{% endfor %}"
        templates = (spaced, CHATML) if swapped else (CHATML, spaced)
        student, teacher = (
            LanguageModel.wrap(tiny_model("llama", 600), toy(template)) for template in templates
        )
        document = chat([("user", "the"), ("assistant", "the value the")])
        method = Alm(merge_threshold=None)
        [[signal]] = Teacher(teacher, [method]).signals([document])
        [prediction] = student.predictions([document])
        pair = Pair(student.tokenizer.vocabulary, teacher.tokenizer.vocabulary)
        term = method.loss(prediction, signal, pair, nn.ModuleDict())
        scored = prediction.scored.numpy()
        assert term.units == 3  # " value", " the" and the end of turn
        assert method.num_units(prediction.tokens, scored, signal, pair) == 3

    def test_ends_of_turns_are_paired(self, toy):
        """Templates differ in everything but the ends of turns form chunks of their own."""
        document = chat()
        ours, theirs = (
            read(toy(TEMPLATES[name], family), document)
            for name, family in (("system", "bytelevel"), ("text before the end", "sentencepiece"))
        )
        found = align(ours.byte_ends, theirs.byte_ends)
        live = live_chunks(found, ours.scored(document.scored), theirs.scored(document.scored))
        cut = pieces(ours, document.content), pieces(theirs, document.content)
        pairs = [
            (cut[0][s], cut[1][t])
            for s, t, alive in zip(found.student_last, found.teacher_last, live, strict=True)
            if alive and b"\xff" in (cut[0][s], cut[1][t])
        ]
        assert pairs == [(b"\xff", b"\xff")] * 2


class TestPlain:
    def test_without_a_template(self, toy):
        tokenizer, document = toy(None, "sentencepiece"), chat([("system", "Be brief."), *TALK])
        assert tokenizer.chat.is_plain
        assert not tokenizer.chat.has_own
        tokens = read(tokenizer, document)
        assert tokenizer.fast.decode(tokens.ids) == (
            "<bos>System:\nBe brief.\n\nUser:\nWhat is 2+2?\n\nAssistant:\nIt is 4.<eos>\n\n"
            "User:\nWhy?\n\nAssistant:\nSo.<eos>"
        )
        assert tokens.byte_ends[0] == -1
        assert tokens.ids[-1] == end_of_turn_id(tokenizer) == tokenizer.fast.eos_token_id
        assert tokens.num_straddling(document.scored) == 0

    def test_on_request(self, toy):
        document = chat()
        own, plain = toy(), toy(choice="plain")
        assert (own.chat.is_plain, plain.chat.is_plain) == (False, True)
        assert read(own, document).ids.tolist() != read(plain, document).ids.tolist()

    def test_without_an_end_token(self, toy):
        fast = deepcopy(toy(None).fast)
        fast.eos_token = None
        document = chat()
        tokens = read(Tokenizer(fast, "toy"), document)
        assert b"\xff" not in scored_content(tokens, document)
        assert tokens.byte_ends.max() == len(document.content)

    def test_the_source_chooses(self, toy, tmp_path):
        toy().fast.save_pretrained(tmp_path)
        assert not Tokenizer.load(ModelSource(str(tmp_path)), "t").chat.is_plain
        assert Tokenizer.load(ModelSource(str(tmp_path), template="plain"), "t").chat.is_plain


def test_empty_contents(toy):
    document = chat([("user", ""), ("assistant", ""), ("user", "a"), ("assistant", "b")])
    tokens = read(toy(), document)
    cut = pieces(tokens, document.content)
    assert [piece for piece in cut if piece] == [b"\xff", b"a", b"b", b"\xff"]


def test_a_chat_is_a_chat():
    assert chat().is_chat
    assert not text_document("d", "text").is_chat
    assert not Document("d", (Segment("prompt", b"a", False),)).is_chat


REAL = (
    "smollm2-135m-instruct",
    "gemma-3-270m",
    "tokenizers/gemma-3",
    "tokenizers/llama-3-chat",
    "tokenizers/qwen-3",
)
REAL_TALKS = (
    TALK,
    [("system", "You are terse."), *TALK],
    [("user", "東京 🙂"), ("assistant", "né\n\n1. fine")],
)


def real(name: str) -> Tokenizer:
    try:
        folder = resolve(f"asset:{name}")
    except FileNotFoundError as error:
        pytest.skip(str(error))
    return Tokenizer(AutoTokenizer.from_pretrained(folder), name)


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_real_templates(name):
    tokenizer = real(name)
    for messages in REAL_TALKS:
        document = chat(messages)
        tokens = read(tokenizer, document)
        if tokenizer.chat.has_own:
            assert tokens.ids.tolist() == own_ids(tokenizer.fast, messages)
        answers = (content.encode() + b"\xff" for role, content in messages if role == "assistant")
        assert scored_content(tokens, document) == b"".join(answers)


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL[2:])
def test_real_chats_share_all_that_is_scored(name):
    """Every scored byte lies in a live chunk of two models with different templates."""
    student, teacher = real(REAL[0]), real(name)
    for messages in REAL_TALKS:
        document = chat(messages)
        ours, theirs = read(student, document), read(teacher, document)
        found = align(ours.byte_ends, theirs.byte_ends)
        live = live_chunks(found, ours.scored(document.scored), theirs.scored(document.scored))
        ends = ours.byte_ends[found.student_last]
        widths = np.diff(ends, prepend=0)
        assert widths[live].sum() == document.num_scored_bytes
