"""Before it is believed, a server is compared with itself in another order and with its weights."""

from dataclasses import replace

import numpy as np
import pytest

from losses.document import text_document
from losses.methods.p_kl import PKl
from teachers.server.parity import FEW, Parity
from teachers.server.reference import OwnWeights, record_sample, reference_of
from teachers.source import ModelSource


@pytest.fixture(scope="module")
def folder(model, fast_tokenizers, tmp_path_factory):
    """The served model's own folder."""
    path = tmp_path_factory.mktemp("weights")
    model.model.save_pretrained(path)
    fast_tokenizers["bytelevel"].save_pretrained(path)
    return path


def own(folder, tokenizer):
    return Parity("gemma", 0.05, OwnWeights(ModelSource(str(folder)), tokenizer))


def test_the_same_weights_pass_and_are_asked_once(server, ask, documents, folder):
    teacher = ask(server, parity=own(folder, server.model.tokenizer))
    teacher.signals(documents)
    first = len(server.requests)
    teacher.signals(documents)
    assert len(server.requests) - first == first - 3 * FEW


def test_other_weights_are_refused_with_numbers(server, ask, documents, folder):
    server.temperature = 1.5
    teacher = ask(server, parity=own(folder, server.model.tokenizer))
    words = (
        r"teacher gemma: on document d\d the server's log-probabilities are 0\.\d+ nats a token "
        r"off \(mean of \d+; largest [\d.]+\) those of model_parity; expected at most 0\.05"
    )
    with pytest.raises(ValueError, match=words):
        teacher.signals(documents)
    with pytest.raises(ValueError, match="those of model_parity"):  # it stays in doubt
        teacher.signals(documents)


def test_the_tolerance_decides(server, ask, documents, folder):
    server.temperature = 1.5
    weights = OwnWeights(ModelSource(str(folder)), server.model.tokenizer)
    assert ask(server, parity=Parity("gemma", 9.0, weights)).signals(documents)


def test_answers_that_depend_on_the_order_are_refused(server, ask, documents):
    server.drift = 0.1
    with pytest.raises(
        ValueError, match=r"when the documents are asked in another order.*mixed up"
    ):
        ask(server).signals(documents)


def test_weights_that_say_no_number_are_no_proof(server, ask, documents, folder):
    class Broken(OwnWeights):
        def known(self, prompts):
            return [replace(k, logprob=np.full_like(k.logprob, np.nan)) for k in self.good(prompts)]

        good = OwnWeights.known

    weights = Broken(ModelSource(str(folder)), server.model.tokenizer)
    with pytest.raises(ValueError, match="are inf nats a token off"):
        ask(server, parity=Parity("gemma", 9.0, weights)).signals(documents)


def test_a_text_of_one_token_proves_nothing(server, ask, documents):
    server.drift = 0.1
    teacher = ask(server)
    assert teacher.signals([text_document("empty", "")])
    with pytest.raises(ValueError, match="in another order"):
        teacher.signals(documents)


def test_evaluation_is_probed_too(server, ask, documents):
    server.drift = 0.1
    with pytest.raises(ValueError, match="in another order"):
        ask(server).evaluate(documents)


def test_without_a_reference_it_says_so(server, ask, documents, caplog):
    ask(server).signals(documents[:1])
    assert any("model_parity is not set" in record.getMessage() for record in caplog.records)


class TestSample:
    def test_a_recorded_sample_stands_for_the_weights(
        self, server, ask, documents, folder, tmp_path
    ):
        texts = [text_document("one", "A recorded text."), text_document("two", "Another.\n")]
        path = tmp_path / "sample.safetensors"
        record_sample(ModelSource(str(folder)), texts).save(path)
        reference = reference_of(path, server.model.tokenizer, "cpu")
        assert [entry.prompt.name for entry in reference.known([])] == ["one", "two"]
        assert ask(server, parity=Parity("gemma", 1e-4, reference)).signals(documents[:1])
        server.temperature = 1.5
        with pytest.raises(ValueError, match=r"on document (one|two) the server's"):
            ask(server, parity=Parity("gemma", 0.05, reference)).signals(documents[:1])

    def test_another_tokenizer_is_refused(self, documents, folder, tokenizers, tmp_path):
        path = tmp_path / "sample.safetensors"
        record_sample(ModelSource(str(folder)), documents[:1]).save(path)
        with pytest.raises(ValueError, match="was recorded with another tokenizer"):
            reference_of(path, tokenizers["sentencepiece"], "cpu")

    def test_nothing_to_compare_is_refused(self, server, ask, documents, folder):
        sample = record_sample(ModelSource(str(folder)), [text_document("empty", "")])
        with pytest.raises(ValueError, match=r"model_parity compares nothing: none of its 1 docum"):
            ask(server, parity=Parity("gemma", 0.05, sample)).signals(documents[:1])

    def test_a_damaged_file_is_refused(self, tokenizers, tmp_path):
        (tmp_path / "sample.safetensors").write_text("junk")
        with pytest.raises(ValueError, match="is damaged, or no safetensors file"):
            reference_of(tmp_path / "sample.safetensors", tokenizers["bytelevel"], "cpu")

    def test_another_file_is_refused(self, folder, tokenizers):
        with pytest.raises(ValueError, match="is no recorded sample: it lacks fingerprint"):
            reference_of(folder / "model.safetensors", tokenizers["bytelevel"], "cpu")


def test_nothing_named_is_no_reference(tokenizers):
    assert reference_of(None, tokenizers["bytelevel"], "cpu") is None


def test_probes_read_a_few_documents_only(server, ask):
    texts = [text_document(f"t{n}", f"Text number {n}.") for n in range(FEW + 3)]
    ask(server, PKl(k=2)).signals(texts)
    assert len(server.requests) == 2 * FEW + len(texts)
