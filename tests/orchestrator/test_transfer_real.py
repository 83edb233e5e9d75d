"""SmolLM2 with other tokenizers, before any training."""

from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from losses.document import Document, text_document
from orchestrator.student.byte_tokenizer import write_byte_tokenizer
from orchestrator.student.embeddings.options import EmbeddingOptions
from orchestrator.student.new_tokenizer import NewTokenizer
from orchestrator.student.transfer import transfer
from teachers.backends.transformers import LanguageModel, load_weights
from teachers.evaluation import bits_per_byte, score
from teachers.source import ModelSource
from teachers.tokenizer import Tokenizer

TEXT = (
    "The sun rose over the hills, and the farmer went out to look after his animals. He had two "
    "horses, five cows and a dog that followed him everywhere he went. In the evening he came home."
)


@pytest.mark.slow
def test_its_byte_tokenizer_writes_its_chats(fetched: Callable[[str], Path], tmp_path: Path):
    source = AutoTokenizer.from_pretrained(fetched("asset:smollm2-135m-instruct"))
    opened = AutoTokenizer.from_pretrained(write_byte_tokenizer(source, tmp_path))
    chat = [{"role": "user", "content": "Say <|im_end|>."}]
    ids = opened.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
    written = source.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    assert opened.decode(ids).replace("\ufdd0", "") == written
    assert [i for i in ids if i > 255] == [257, 258, 257, 258, 257]
    assert opened.convert_ids_to_tokens([258]) == [opened.eos_token]
    assert opened(TEXT)["input_ids"] == list(TEXT.encode())


@pytest.mark.nightly
def test_gemma_s_tokenizer_costs_little(
    fetched: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """Most tokens of plain English are in both; chance would be about 4 bits per byte."""
    init = ModelSource(str(fetched("asset:smollm2-135m-instruct")), dtype="bfloat16")
    gemma = str(fetched("asset:gemma-3-270m"))
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path))
    source, options = Tokenizer.load(init, "student"), EmbeddingOptions()
    documents: list[Document] = [text_document("d", TEXT)]
    model = load_weights(init, "cpu")
    before = bits_per_byte(score(LanguageModel.wrap(model, source), documents, 512))
    target = NewTokenizer(gemma, options).load(init, source)
    report = transfer(model, source, target, options)
    after = bits_per_byte(score(LanguageModel.wrap(model, target), documents, 512))
    assert report.num_ids == 262147
    assert report.tied
    assert before < 1.0
    assert before < after < before + 0.5
