"""A toy student learns from a real server on this machine, which fails now and then."""

import json

import pytest

from orchestrator.assets import resolve
from orchestrator.config import load_run
from orchestrator.loading import source_of
from orchestrator.run import train
from orchestrator.setup import set_up
from teachers.backends.transformers import LanguageModel
from teachers.evaluation import bits_per_byte, score
from teachers.tokenizer import Tokenizer

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("shared_ray")]

TOY = "asset:toy/sentencepiece"
METHODS = [
    {"name": "p_kl", "k": 8},
    {"name": "alm", "debias": False, "merge_threshold": None, "temperature": 2.0},
]


def overrides(folder, server, **keys) -> list[str]:
    where = {"url": server.url, "top_logprobs": 9, "api_key_variable": "SERVER_KEY"}
    teacher = {"name": "served", "kind": "openai", "model": "toy", "tokenizer": TOY}
    teacher |= {"server": where, "model_parity": TOY, "methods": METHODS, **keys}
    return [
        f"teachers={json.dumps([teacher])}",
        "mixture.ce_weight=0.1",
        "compare.ce_only=null",
        "train.max_steps=6",
        "train.warmup_steps=0",
        "train.global_batch=4",
        "train.learning_rate=0.01",
        "train.gradient_share_steps=0",
        "data.held_out_limit=8",
        f"output_dir={folder}",
    ]


@pytest.fixture(scope="module")
def toy() -> LanguageModel:
    resolve(TOY)
    source = source_of(TOY, "float32")
    model = LanguageModel.load(source, Tokenizer.load(source, "toy"))
    model.model.eval()
    return model


def test_a_student_learns_from_a_server(toy, scripted_server, server_key, tmp_path):
    with scripted_server(toy, key=server_key) as server:
        server.faults.extend(["right"] * 20 + ["500", "hang up", "cut json"])
        config = load_run("smoke.yaml", overrides(tmp_path / "run", server))
        summary = train(config)
    bits = summary.bits_per_byte
    assert not server.faults
    assert bits.distilled < bits.before
    documents = set_up(config).held_out.documents
    assert bits.teachers["served"] == pytest.approx(
        bits_per_byte(score(toy, documents, 4096)), abs=1e-5
    )
    assert all(request["prompt_logprobs"] == 9 for request in server.requests)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if server_key.encode() in path.read_bytes()]
