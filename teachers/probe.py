"""What a tokenizer must give back when it is loaded: texts of many scripts and shapes."""

from typing import TYPE_CHECKING

from losses.alignment.vocabulary import METASPACE, Family
from teachers.faithfulness import first_difference

if TYPE_CHECKING:
    from teachers.tokenizer import Tokenizer

PLAIN = "Hello, World! It costs 10 to 25 dollars (see: a-b_c)."
"""A tokenizer whose normaliser changes this would leave out nearly every document."""
LINES = (
    "",
    PLAIN,
    " a",
    "a ",
    "  two  spaces  ",
    "                 deep",
    "\n",
    "\n\n",
    "\n\n\n \n",
    "\r\n",
    "\t",
    "\t\tx\n\ty",
    " \n ",
    "line\rline",
    "\v\f",
    "\x00",
    "\x01\x1b[0m\x7f",
    "\u0085\u00a0\u2003\u3000x",
    "\u2028\u2029",
    "\ufeffbom",
    "\u200b\u200d\ufe0f",
    "\ufffd",
    "\ufffe\U0010ffff",
    "\ue000",
    "naïve café Ünï Å",
    "cafe\u0301",  # the accent as a character of its own
    "ﬁne Ａ ½ ²",  # noqa: RUF001
    "Łódź, Đà Nẵng, İstanbul, straße",
    "Привет, мир!",
    "Γειά σου Κόσμε",  # noqa: RUF001
    "你好，世界。東京",  # noqa: RUF001
    "こんにちは カタカナ ｶﾅ",
    "안녕하세요 각",
    "مرحبا بالعالم ١٢٣",
    "שָׁלוֹם עולם",
    "नमस्ते दुनिया क्ष",
    "สวัสดีชาวโลก",
    "வணக்கம்",
    "ሰላም 𐍈 𝔘𝔫𝔦",  # noqa: RUF001
    "🙂",
    "👩‍👩‍👧‍👦 🇫🇷 👍🏽 ✈️",
    "🙂🙂 a🙂b",
    "€ £ ¥ ∑ ∫ ≤ →",
    "12345 1,234.56 0x41 1e-9 ٣",
    "it's I'll we'VE can't",
    "x = [1, 2]; y += x[0]  # note",
    "def f(x):\n    return x ** 2\n\n\nprint(f(3))\n",
    '{"a": [1, null], "b": "\\n"}',
    "<b>&amp;</b> </s> <s> <unk> <pad>",
    "<|endoftext|> <|im_start|>user\n<|im_end|> [INST] <bos><eos>",
    "## Title ##word ##",
    "http://a.b/c?d=e&f=%20#g",
    "!!!???...,,,---___===***",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "camelCaseWord SHOUTING snake_case",
    " ­soft hyphen",
)


def check_probe(tokenizer: "Tokenizer") -> None:
    """Refuse a tokenizer that does more to a text than it declares.

    Its tokens must join to the text after the declared normalisation, with the dummy prefix.
    Left to the check of each document: what becomes the unknown token, and what SentencePiece
    reads as a byte or a special token.

    Raises:
        ValueError: the first probe text that comes back otherwise.
    """
    if tokenizer.normalisation.normalised(PLAIN) != PLAIN:
        steps = ", ".join(tokenizer.normalisation.steps)
        raise ValueError(
            f"{tokenizer.name}: this tokenizer does not give plain English text back byte for byte "
            f"({steps}: {tokenizer.normalisation.normalised(PLAIN)!r}); nearly every document "
            f"would be left out, so it is not supported"
        )
    for text, ids in zip(LINES, tokenizer.ids_of(LINES), strict=True):
        special = any(index in tokenizer.vocabulary.roles for index in ids)
        if special and tokenizer.family is not Family.BYTE_LEVEL:
            continue
        _check_line(tokenizer, text, ids)


def _check_line(tokenizer: "Tokenizer", text: str, ids: list[int]) -> None:
    seen = tokenizer.normalisation.normalised(text)
    if METASPACE in seen:
        return
    if tokenizer.spans_of([ids], [seen.encode()])[0] is None:
        joined = b"".join(tokenizer.vocabulary.token_bytes[i] or b"" for i in ids)
        raise ValueError(
            f"{tokenizer.name}: this tokenizer does not give text back byte for byte "
            f"({first_difference(joined, tokenizer.normalisation.seen(text))} in {text!r}); "
            "its family is not supported"
        )
