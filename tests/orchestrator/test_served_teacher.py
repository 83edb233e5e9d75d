"""From a run file to a teacher that asks a server: no process of Ray in between."""

import json

import numpy as np
import pytest

from losses.document import text_document
from losses.methods.p_kl import PKl
from orchestrator.cluster import Machine
from orchestrator.config import RunConfig, load_run, to_yaml
from orchestrator.errors import ConfigError, exit_code
from orchestrator.loading import load_model, source_of
from orchestrator.members import members_of
from orchestrator.references import find_references
from orchestrator.setup import set_up
from orchestrator.sources import speaking_source
from orchestrator.specs import teacher_specs, with_longest
from orchestrator.validation import validate
from teachers.server.client import Client, ServerLost
from teachers.server.source import Dialect, ServerSource
from teachers.teacher import Teacher

TOY = "asset:toy/sentencepiece"
BARE = {"name": "alm", "debias": False, "merge_threshold": None}


def config_of(folder, **keys) -> RunConfig:
    teacher = {
        "name": "served",
        "kind": "openai",
        "model": "toy",
        "tokenizer": TOY,
        "server": {"url": "http://127.0.0.1:1", "top_logprobs": 4},
        "methods": [{"name": "p_kl", "k": 3, "precision": "float32"}],
    }
    overrides = [
        f"teachers={json.dumps([teacher | keys])}",
        "compare.ce_only=null",
        f"output_dir={folder}",
    ]
    return load_run("smoke.yaml", overrides)


def source(folder, **keys) -> ServerSource:
    config = config_of(folder, **keys)
    found = speaking_source(config.teachers[0], config.student)
    assert isinstance(found, ServerSource)
    return found


def test_a_run_file_becomes_a_teacher(scripted_server, tmp_path, monkeypatch):
    model = load_model(source_of(TOY, "float32"), "toy", "cpu")
    documents = [text_document("d", "A toy text."), text_document("e", "Another one.\n")]
    [[expected], _] = Teacher(model, [PKl(k=3, precision="float32")]).signals(documents)
    clients: list[Client] = []
    start = Client.__init__
    monkeypatch.setattr(
        Client, "__init__", lambda self, *more: (clients.append(self), start(self, *more))[1]
    )
    with scripted_server(model) as server:
        where = {"url": server.url, "top_logprobs": 4, "tolerance": 1e-3}
        config = config_of(tmp_path, server=where, model_parity=TOY)
        [spec] = teacher_specs(config, Machine(2, 4.0))
        assert spec.device == "cpu"
        [[found], _] = spec.build().signals(documents)
        for client in clients:
            client.__exit__()
    assert found.num_bytes == expected.num_bytes
    np.testing.assert_allclose(found.logprob, expected.logprob, atol=1e-5)
    np.testing.assert_allclose(np.exp(found.tail), np.exp(expected.tail), atol=1e-5)


def test_validate_needs_no_server(tmp_path):
    lines = list(validate(config_of(tmp_path / "run")))
    assert any(line.startswith("served: ") for line in lines)


def test_validate_reads_the_recorded_sample(tmp_path):
    (tmp_path / "sample.safetensors").write_text("junk")
    config = config_of(tmp_path / "run", model_parity=str(tmp_path / "sample.safetensors"))
    with pytest.raises(ConfigError, match=r"teachers\[0\] \(served\).model_parity: .* is damaged"):
        list(validate(config))


def test_it_knows_its_longest_document(tmp_path):
    config = config_of(tmp_path / "run")
    setup = set_up(config)
    [spec] = teacher_specs(config, Machine(2, 0.0))
    [_, tokenizer] = setup.tokenizers
    documents = (*setup.train.documents, *setup.held_out.documents)
    expected = max(map(len, tokenizer.encode(documents)))
    assert with_longest(spec, setup).source.longest == expected


def test_its_weights_are_told_by_name(tmp_path):
    assert set_up(config_of(tmp_path / "run")).models["served"] == "served as toy"


class TestSource:
    def test_likely_tokens_are_asked_for_where_they_are_read(self, tmp_path):
        assert source(tmp_path).top_logprobs == 4
        assert source(tmp_path, methods=[BARE]).top_logprobs == 0

    def test_everything_goes_along(self, tmp_path):
        server = {
            "url": "https://host/",
            "dialect": "echo",
            "api_key_variable": "KEY",
            "timeout_s": 3.0,
            "retries": 1,
            "concurrency": 2,
            "tolerance": 0.5,
        }
        found = source(tmp_path, server=server, methods=[BARE], template="plain")
        assert found.url == "https://host"
        assert found.dialect is Dialect.ECHO
        assert (found.api_key_variable, found.timeout_s, found.retries) == ("KEY", 3.0, 1)
        assert (found.concurrency, found.tolerance, found.parity) == (2, 0.5, None)
        assert found.tokenizer.template == "plain"
        assert found.model == "toy"


class TestReferences:
    def test_the_model_s_name_is_no_folder_of_this_machine(self, tmp_path):
        assert find_references(config_of(tmp_path / "run", model="/models/served")).problems == ()

    @pytest.mark.parametrize(
        ("key", "value", "words"),
        [
            ("tokenizer", "./nowhere", "model folder ./nowhere does not exist"),
            ("model_parity", "./nowhere", "model folder ./nowhere does not exist"),
            ("model_parity", "gone.safetensors", "expected the file of a recorded sample"),
        ],
    )
    def test_what_is_not_there(self, tmp_path, key, value, words):
        [problem] = find_references(config_of(tmp_path / "run", **{key: value})).problems
        assert problem.startswith(f"teachers[0] (served).{key}: ")
        assert words in problem


def test_an_ensemble_needs_weights(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(to_yaml(config_of(tmp_path / "out")))
    with pytest.raises(ConfigError, match=r"teachers.served: its weights are behind a server"):
        members_of([str(path)], [], "float32")


def test_a_server_that_is_lost_ends_the_run_as_a_lost_worker_does():
    assert exit_code(ServerLost("gone")) == 5
