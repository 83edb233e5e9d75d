"""The toy folder is the same every time, and built like the real thing."""

import json
import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from orchestrator.assets import resolve
from orchestrator.assets.split import passages
from orchestrator.assets.toy.build import build_toy

PARTS = ("train", "validation", "held_out")
PROBE = "Naïve 日本語 👩‍👩‍👧 <0x41> x = 42;  a\tb\r\n\n isn't it? "


def texts_of(path: Path) -> list[str]:
    return [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy folder with barely trained teachers."""
    folder = tmp_path_factory.mktemp("toy")
    build_toy(folder, teacher_steps=3)
    return folder


def test_toy_build_is_deterministic(toy: Path, tmp_path: Path) -> None:
    torch.rand(1)  # the global generator must not matter
    build_toy(tmp_path, teacher_steps=3)
    files = sorted(path.relative_to(toy) for path in toy.rglob("*") if path.is_file())
    assert len(files) == 3 + 3 * 5
    for file in files:
        assert (tmp_path / file).read_bytes() == (toy / file).read_bytes(), file


def test_toy_build_leaves_the_callers_generator_and_threads_alone(tmp_path: Path) -> None:
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    build_toy(tmp_path, teacher_steps=1)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(("name", "size"), [("bytelevel", 512), ("sentencepiece", 768)])
def test_toy_tokenizers_round_trip(name: str, size: int, toy: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(toy / name)
    assert len(tokenizer) == size
    for text in [PROBE, *texts_of(toy / "held_out.jsonl")]:
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_toy_sentencepiece_is_built_like_gemmas(toy: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(toy / "sentencepiece")
    assert tokenizer.convert_ids_to_tokens(range(5)) == [
        "<pad>",
        "<eos>",
        "<bos>",
        "<unk>",
        "<0x00>",
    ]
    tokens = tokenizer.convert_ids_to_tokens(tokenizer("a é the")["input_ids"])
    assert tokens == ["<bos>", "a", "▁", "<0xC3>", "<0xA9>", "▁the"]


def test_toy_student_shares_one_teachers_vocabulary_only(toy: Path) -> None:
    student, bytelevel, sentencepiece = (
        AutoTokenizer.from_pretrained(toy / name).get_vocab()
        for name in ("student", "bytelevel", "sentencepiece")
    )
    assert student == bytelevel != sentencepiece


def test_toy_parts_share_no_passage(toy: Path) -> None:
    seen = [
        {passage for text in texts_of(toy / f"{part}.jsonl") for passage in passages(text)}
        for part in PARTS
    ]
    assert sum(map(len, seen)) == len(set.union(*seen))
    assert all(200 <= len(text) <= 400 for text in texts_of(toy / "train.jsonl"))


def bits_per_token(folder: Path, texts: list[str]) -> tuple[float, float]:
    """Mean bits per predicted token of a model, and of the uniform guess."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    nats, tokens = 0.0, 0
    for text in texts:
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            logprobs = model(ids).logits[0, :-1].log_softmax(-1)
        nats -= logprobs.gather(1, ids[0, 1:, None]).sum().item()
        tokens += ids.shape[1] - 1
    return nats / tokens / math.log(2), math.log2(len(tokenizer))


@pytest.mark.slow
def test_toy_teachers_know_something_and_the_student_nothing() -> None:
    """Those of the cache folder, where the first test that needs them has them built."""
    teachers = [resolve(f"asset:toy/{name}") for name in ("bytelevel", "sentencepiece")]
    held_out = texts_of(resolve("asset:toy/held_out.jsonl"))[:40]
    for folder in teachers:
        model, uniform = bits_per_token(folder, held_out)
        assert model < 0.75 * uniform
    model, uniform = bits_per_token(resolve("asset:toy/student"), held_out)
    assert uniform <= model < 1.2 * uniform
