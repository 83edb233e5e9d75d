"""A model gets another tokenizer: rows, ids, zero-shot folders, and training from there."""

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer as FastTokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE, WordPiece
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from losses.alignment.vocabulary import byte_alphabet
from losses.base import Method
from losses.document import Document
from losses.methods.alm import Alm
from losses.methods.bld import Bld
from losses.methods.hidden import Hidden
from orchestrator.config import RunConfig, parse_run
from orchestrator.errors import ConfigError
from orchestrator.hypernetwork.config import NetworkConfig
from orchestrator.hypernetwork.network import Hypernetwork
from orchestrator.hypernetwork.rows import source_rows
from orchestrator.hypernetwork.trained import TrainedHypernetwork
from orchestrator.setup import STUDENT, load_tokenizers
from orchestrator.student.byte_tokenizer import byte_tokenizer
from orchestrator.student.embeddings.options import EmbeddingOptions
from orchestrator.student.merged_tokenizer import merged_tokenizer
from orchestrator.student.special_roles import pair_specials, special_roles
from orchestrator.student.transfer import transfer, vocabulary_pair
from orchestrator.student.vocabulary_rows import VocabularyRows
from orchestrator.validation import validate
from orchestrator.zero_shot import write_zero_shot
from teachers.backends.transformers import LanguageModel
from teachers.evaluation import bits_per_byte, score
from teachers.sealing import sealed
from teachers.tokenizer import Tokenizer

ROOT = Path(__file__).resolve().parents[2]
FVT = EmbeddingOptions()
KINDS = ("llama", "gpt2", "gemma2", "phi")  # tied and not, a bias, scaled inputs


@pytest.fixture(scope="module")
def new_tokenizers(tokenizers: dict[str, Tokenizer]) -> dict[str, Tokenizer]:
    """What the byte-level toy student can be given."""
    source, other = tokenizers["bytelevel"], tokenizers["sentencepiece"]
    return {
        "bytes": Tokenizer(byte_tokenizer(source), "student"),
        "sentencepiece": Tokenizer(merged_tokenizer(source, other), "student"),
        "target": other,
        "same": source,
    }


@pytest.fixture
def transferred(
    tiny_model: Callable[..., PreTrainedModel],
    tokenizers: dict[str, Tokenizer],
    new_tokenizers: dict[str, Tokenizer],
) -> Callable[..., LanguageModel]:
    """A tiny model of the byte-level tokenizer after its transfer."""

    def build(
        target: str,
        architecture: str = "llama",
        options: EmbeddingOptions = FVT,
        multiple: int = 64,
        **more: Any,
    ) -> LanguageModel:
        source = tokenizers["bytelevel"]
        model = tiny_model(architecture, len(source.vocabulary) + 5, **more)
        transfer(model, source, new_tokenizers[target], options, multiple=multiple)
        return LanguageModel.wrap(model, new_tokenizers[target])

    return build


class TestRows:
    """What becomes of the model's own rows."""

    @pytest.mark.parametrize("architecture", KINDS)
    @pytest.mark.parametrize("target", ["bytes", "sentencepiece"])
    def test_equal_bytes_have_equal_logits(
        self,
        transferred: Callable[..., LanguageModel],
        tiny_model: Callable[..., PreTrainedModel],
        tokenizers: dict[str, Tokenizer],
        architecture: str,
        target: str,
    ):
        """A text that both cut into bytes: the same logits for tokens of the same bytes."""
        old, new = tokenizers["bytelevel"], transferred(target, architecture)
        model = tiny_model(architecture, len(old.vocabulary) + 5)
        text = [old.vocabulary.ids_of(bytes([byte]))[0] for byte in b"q7z"]
        same = [new.tokenizer.vocabulary.ids_of(bytes([byte])) for byte in b"q7z"]
        start = [old.start_id, *text], [new.tokenizer.start_id, *(max(ids) for ids in same)]
        with torch.no_grad():
            before = model(torch.tensor([start[0]])).logits[0]
            after = new.model(torch.tensor([start[1]])).logits[0]
        torch.testing.assert_close(after[:, start[1]], before[:, start[0]], atol=1e-5, rtol=1e-5)

    @pytest.mark.parametrize("architecture", KINDS)
    @pytest.mark.parametrize("init", ["fvt", "focus", "mean"])
    def test_its_own_tokenizer_changes_nothing(
        self,
        transferred: Callable[..., LanguageModel],
        tiny_model: Callable[..., PreTrainedModel],
        architecture: str,
        init: Any,
    ):
        new = transferred("same", architecture, EmbeddingOptions(init)).model
        old, ids = tiny_model(architecture, 517), torch.arange(12)[None]
        with torch.no_grad():
            assert torch.equal(new(ids).logits[..., :512], old(ids).logits[..., :512])
        assert new.config.tie_word_embeddings == old.config.tie_word_embeddings
        assert new.config.eos_token_id == old.config.eos_token_id

    def test_rows_are_padded_and_the_head_cuts_them(
        self, transferred: Callable[..., LanguageModel], documents: list[Document]
    ):
        new = transferred("bytes")
        assert new.model.get_input_embeddings().weight.shape[0] == 320
        assert new.model.config.vocab_size == 320
        assert new.head.num_valid == 257
        assert new.model.generation_config.suppress_tokens == list(range(257, 320))
        bare = transferred("bytes", multiple=1)
        assert len(bare.model.get_input_embeddings().weight) == bare.model.config.vocab_size == 257
        assert not bare.model.generation_config.suppress_tokens
        padded, other = (bits_per_byte(score(m, documents, 512)) for m in (new, bare))
        assert other == pytest.approx(padded, abs=1e-6)

    @pytest.mark.parametrize("untie", [None, True, False])
    @pytest.mark.parametrize("target", ["bytes", "sentencepiece"])
    def test_bytes_are_untied_and_others_as_they_were(
        self, transferred: Callable[..., LanguageModel], target: str, untie: bool | None, tmp_path
    ):
        model = transferred(target, "gpt2", EmbeddingOptions(untie=untie)).model
        expected = target == "bytes" if untie is None else untie
        assert VocabularyRows.of(model, 257).is_tied is not expected
        assert model.config.tie_word_embeddings is not expected
        model.save_pretrained(tmp_path)
        again = type(model).from_pretrained(tmp_path)
        assert VocabularyRows.of(again, 257).is_tied is not expected
        assert torch.equal(again.lm_head.weight, model.lm_head.weight)

    def test_drawn_rows_follow_the_seed(
        self,
        tiny_model: Callable[..., PreTrainedModel],
        tokenizers: dict[str, Tokenizer],
        new_tokenizers: dict[str, Tokenizer],
    ):
        models = [tiny_model("llama", 512) for _ in range(2)]
        reports = [
            transfer(model, tokenizers["bytelevel"], new_tokenizers["sentencepiece"], FVT, seed=3)
            for model in models
        ]
        assert reports[0] == reports[1]
        rows = [model.get_input_embeddings().weight for model in models]
        assert torch.equal(*rows)

    def test_the_report_adds_up(
        self,
        tiny_model: Callable[..., PreTrainedModel],
        tokenizers: dict[str, Tokenizer],
        new_tokenizers: dict[str, Tokenizer],
    ):
        for target in new_tokenizers.values():
            for init in ("fvt", "mean"):
                model = tiny_model("llama", 512)
                report = transfer(model, tokenizers["bytelevel"], target, EmbeddingOptions(init))
                parts = report.copied + report.combined + report.special + report.filled
                assert parts == report.num_ids == len(target.vocabulary)
                assert report.num_rows % 64 == 0


class TestHypernetwork:
    """``init: hypernetwork``."""

    def test_an_untrained_one_with_the_mean_is_fvt(
        self,
        tiny_model: Callable[..., PreTrainedModel],
        tokenizers: dict[str, Tokenizer],
        new_tokenizers: dict[str, Tokenizer],
        tmp_path: Path,
    ):
        source, target = tokenizers["bytelevel"], new_tokenizers["sentencepiece"]
        models = [tiny_model("llama", 512) for _ in range(2)]
        own = source_rows(models[0], 512)
        options = NetworkConfig(residual="mean", num_layers=1, num_heads=1)
        network = Hypernetwork(options, own.shape[1], own.shape[2])
        network.start(own, seed=0)
        fingerprint = source.vocabulary.fingerprint
        TrainedHypernetwork(network, "toy", fingerprint, 0).save(tmp_path)
        predicted = EmbeddingOptions("hypernetwork", hypernetwork=str(tmp_path))
        reports = [
            transfer(model, source, target, way)
            for model, way in zip(models, (FVT, predicted), strict=True)
        ]
        copied = vocabulary_pair(source, target).overlap.copied
        heads = [model.get_output_embeddings().weight[list(copied)] for model in models]
        torch.testing.assert_close(*heads)
        reads = [model.get_input_embeddings().weight[target.start_id] for model in models]
        assert torch.equal(*reads)
        assert reports[1].copied == 0
        assert reports[1].combined >= reports[0].copied + reports[0].combined

    def test_one_of_another_model_is_told_first(
        self,
        run: Callable[..., RunConfig],
        tiny_model: Callable[..., PreTrainedModel],
        tokenizers: dict[str, Tokenizer],
        tmp_path: Path,
    ):
        own = source_rows(tiny_model("llama", 512), 512)
        network = Hypernetwork(NetworkConfig(num_layers=1, num_heads=1), *own.shape[1:])
        fingerprint = tokenizers["sentencepiece"].vocabulary.fingerprint
        TrainedHypernetwork(network, "other", fingerprint, 0).save(tmp_path)
        options = {"init": "hypernetwork", "hypernetwork": str(tmp_path)}
        with pytest.raises(ConfigError, match=r"student\.tokenizer: .* for the tokenizer of other"):
            load_tokenizers(run(tokenizer="bytes", embeddings=options))

    def test_a_folder_without_one_is_told_first(
        self, run: Callable[..., RunConfig], tmp_path: Path
    ):
        options = {"init": "hypernetwork", "hypernetwork": str(tmp_path)}
        with pytest.raises(ConfigError, match=r"student\.tokenizer: .* holds no hypernetwork"):
            load_tokenizers(run(tokenizer="bytes", embeddings=options))


class TestSpecialTokens:
    """Roles."""

    def test_the_old_ones_are_kept(self, tokenizers: Any, new_tokenizers: dict[str, Tokenizer]):
        source, new = tokenizers["bytelevel"], new_tokenizers["sentencepiece"]
        assert new.fast.eos_token == source.fast.eos_token == "<|endoftext|>"
        assert new.fast("a")["input_ids"] == new.ids_of(["a"])[0]  # no start token by itself
        assert pair_specials(source, new).old == {new.start_id: source.start_id}
        assert special_roles(new) == dict.fromkeys(("pad", "end", "start"), len(new.vocabulary) - 1)

    def test_those_of_the_target_are_paired_by_role(
        self, tokenizers: dict[str, Tokenizer], tiny_model: Callable[..., PreTrainedModel]
    ):
        source, target = tokenizers["bytelevel"], tokenizers["sentencepiece"]
        paired = pair_specials(source, target)
        ids = {name: target.fast.convert_tokens_to_ids(f"<{name}>") for name in ("pad", "bos")}
        assert paired.old[ids["bos"]] == paired.old[ids["pad"]] == source.start_id
        assert any("the role unknown of <unk>" in text for text in paired.warnings)
        model = tiny_model("llama", 512)
        old = model.get_input_embeddings().weight[source.start_id].clone()
        transfer(model, source, target, EmbeddingOptions(special_tokens="target"))
        assert torch.equal(model.get_input_embeddings().weight[ids["bos"]], old)
        assert model.config.pad_token_id == ids["pad"]
        assert model.config.eos_token_id == target.fast.eos_token_id

    def test_a_role_that_only_the_target_has_names_its_id(
        self,
        tokenizers: dict[str, Tokenizer],
        fast_tokenizers: dict[str, Any],
        tiny_model: Callable[..., PreTrainedModel],
    ):
        """The old model names no padding, the new tokenizer has a token for it."""
        bare = copy.deepcopy(fast_tokenizers["bytelevel"])
        bare.pad_token = None
        source, target = Tokenizer(bare, "bare"), tokenizers["sentencepiece"]
        assert target.fast.pad_token_id not in pair_specials(source, target).old
        model = tiny_model("llama", 512)
        model.config.pad_token_id = model.generation_config.pad_token_id = None
        transfer(model, source, target, EmbeddingOptions(special_tokens="target"))
        assert model.config.pad_token_id == target.fast.pad_token_id
        assert model.generation_config.pad_token_id == target.fast.pad_token_id

    def test_settings_that_name_old_ids_are_left_out(
        self,
        tokenizers: dict[str, Tokenizer],
        new_tokenizers: dict[str, Tokenizer],
        tiny_model: Callable[..., PreTrainedModel],
        caplog: pytest.LogCaptureFixture,
    ):
        model = tiny_model("llama", 512)
        model.generation_config.forced_eos_token_id = 7
        model.generation_config.bad_words_ids = [[5, 6]]
        transfer(model, tokenizers["bytelevel"], new_tokenizers["bytes"], FVT)
        assert model.generation_config.forced_eos_token_id is None
        assert model.generation_config.bad_words_ids is None
        assert "bad_words_ids, forced_eos_token_id name tokens of the old tokenizer" in caplog.text

    def test_a_byte_tokenizer_of_another_model_may_bring_its_own(
        self, transferred: Callable[..., LanguageModel], new_tokenizers: dict[str, Tokenizer]
    ):
        model = transferred("bytes", options=EmbeddingOptions(special_tokens="target")).model
        assert model.config.eos_token_id == new_tokenizers["bytes"].fast.eos_token_id

    def test_from_bytes_to_tokens_they_are_kept(
        self, tokenizers: dict[str, Tokenizer], fast_tokenizers: dict[str, Any]
    ):
        """The names in the byte tokenizer are sealed; those in the next one are not."""
        chats = copy.deepcopy(fast_tokenizers["bytelevel"])
        chats.add_special_tokens({"eos_token": "<|im_end|>"})
        chats.chat_template = (
            "{% for message in messages %}{{ message['role'] + ':' + message['content'] }}"
            "<|im_end|>{% endfor %}"
        )
        of_bytes = Tokenizer(byte_tokenizer(Tokenizer(chats, "chats")), "bytes")
        again = Tokenizer(merged_tokenizer(of_bytes, tokenizers["sentencepiece"]), "again")
        assert again.fast.eos_token == "<|im_end|>"
        assert again.fast.bos_token == "<|endoftext|>"
        assert again.fast.chat_template == chats.chat_template
        roles = special_roles(of_bytes), special_roles(again)
        assert roles[0].keys() == roles[1].keys() >= {"start", "end", "end_of_turn"}
        assert pair_specials(of_bytes, again).warnings == ()
        assert byte_tokenizer(of_bytes) is of_bytes.fast

    def test_a_gap_in_the_ids_is_no_place_for_them(self, tokenizers: dict[str, Tokenizer]):
        """Without a check the kept token would share the id, and the row, of another one."""
        alphabet = byte_alphabet() | {"zz": 257}
        backend = FastTokenizer(BPE(alphabet, [("z", "z")]))
        backend.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)
        backend.decoder = ByteLevelDecoder()
        gap = Tokenizer(PreTrainedTokenizerFast(tokenizer_object=backend), "gap")
        with pytest.raises(ValueError, match=r"gap: the ids .* would get the id 257"):
            merged_tokenizer(tokenizers["bytelevel"], gap)

    def test_a_lost_start_token_is_called_destructive(
        self, tokenizers: dict[str, Tokenizer], fast_tokenizers: dict[str, Any]
    ):
        bare = Tokenizer(fast_tokenizers["bytelevel"], "bare")
        bare.start_id = None
        warnings = pair_specials(tokenizers["sentencepiece"], bare).warnings
        [warning] = [text for text in warnings if "the role start of" in text]
        assert "sentencepiece's <bos>, which is destructive" in warning


class TestModels:
    """Models whose rows cannot be exchanged."""

    def test_too_few_rows(self, tiny_model: Any, tokenizers: Any, new_tokenizers: Any):
        with pytest.raises(ValueError, match="has 512 ids, but LlamaForCausalLM only 500 rows"):
            transfer(
                tiny_model("llama", 500), tokenizers["bytelevel"], new_tokenizers["bytes"], FVT
            )

    def test_tied_heads_of_different_sizes(
        self, tiny_model: Any, tokenizers: Any, new_tokenizers: Any
    ):
        model = tiny_model("gpt2", 512)
        model.lm_head.weight = torch.nn.Parameter(torch.zeros(600, 32))
        with pytest.raises(ValueError, match="512 input rows and 600 output rows, which are tied"):
            transfer(model, tokenizers["bytelevel"], new_tokenizers["bytes"], FVT)


@pytest.fixture
def run(
    tiny_model: Callable[..., PreTrainedModel],
    tokenizers: dict[str, Tokenizer],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., RunConfig]:
    """A run whose student is a small model of the byte-level tokenizer."""
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "cache"))
    for name, tokenizer in tokenizers.items():
        tiny_model("llama", len(tokenizer.vocabulary)).save_pretrained(tmp_path / name)
        tokenizer.fast.save_pretrained(tmp_path / name)
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "Some text, cut."}) + "\n")
    (tmp_path / "b.jsonl").write_text(json.dumps({"text": "Another one."}) + "\n")

    def build(**student: Any) -> RunConfig:
        return parse_run(
            {
                "student": {"init": str(tmp_path / "bytelevel"), **student},
                "teachers": [],
                "data": {
                    "train": [str(tmp_path / "a.jsonl")],
                    "held_out": [str(tmp_path / "b.jsonl")],
                },
                "output_dir": str(tmp_path / "run"),
            }
        )

    return build


OPENED = """
import sys
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
inputs = tokenizer("Hello <|endoftext|>", return_tensors="pt")
ids = model.generate(**inputs, max_new_tokens=8, do_sample=True)
assert max(ids[0].tolist()) < len(tokenizer), ids
print(len(tokenizer), model.config.vocab_size, *inputs["input_ids"][0].tolist())
"""


class TestZeroShot:
    """``tutelage transfer``."""

    @pytest.mark.slow
    @pytest.mark.parametrize("tokenizer", ["bytes", "sentencepiece"])
    def test_a_new_process_opens_it_and_generates(
        self, run: Callable[..., RunConfig], tmp_path: Path, tokenizer: str
    ):
        name = tokenizer if tokenizer == "bytes" else str(tmp_path / tokenizer)
        written = write_zero_shot(run(tokenizer=name), tmp_path / "zero")
        assert written.folder == str(tmp_path / "zero")
        answer = subprocess.run(
            [sys.executable, "-c", OPENED, written.folder],
            capture_output=True,
            text=True,
            check=True,
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        num_ids, num_rows, *ids = map(int, answer.stdout.split())
        assert num_ids == num_rows == written.report.num_ids
        if tokenizer == "bytes":
            assert ids == list(b"Hello <|endoftext|>")

    def test_by_default_it_lies_beside_the_run(self, run: Callable[..., RunConfig], tmp_path: Path):
        config = run(tokenizer="bytes")
        assert write_zero_shot(config).folder == str(tmp_path / "run-zero-shot")
        assert not (tmp_path / "run").exists()
        with pytest.raises(FileExistsError, match="exists already"):
            write_zero_shot(config)

    def test_its_own_tokenizer_is_no_transfer(self, run: Callable[..., RunConfig]):
        with pytest.raises(ConfigError, match="there is nothing to transfer"):
            write_zero_shot(run())

    def test_an_unwritable_folder_is_told_first(
        self, run: Callable[..., RunConfig], tmp_path: Path
    ):
        with pytest.raises(ConfigError, match=r"target folder: .* is a file"):
            write_zero_shot(run(tokenizer="bytes"), tmp_path / "a.jsonl" / "zero")


class TestRun:
    """The student of a run."""

    def test_a_cache_that_cannot_be_written_is_told(
        self, run: Callable[..., RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "a.jsonl"))
        with pytest.raises(ConfigError, match=r"student\.tokenizer: .*name it in TUTELAGE_CACHE"):
            load_tokenizers(run(tokenizer="bytes"))

    def test_other_settings_of_the_target_are_another_tokenizer(
        self, run: Callable[..., RunConfig], tmp_path: Path
    ):
        """``AutoTokenizer`` builds by tokenizer_config.json too: what was cached does not count."""
        folder = tmp_path / "sentencepiece"
        before, _ = load_tokenizers(run(tokenizer=str(folder)))
        path = folder / "tokenizer_config.json"
        settings = json.loads(path.read_text())
        added = {"content": "whole word", "lstrip": False, "rstrip": False, "single_word": False}
        own = {"768": added | {"normalized": False, "special": False}}
        path.write_text(json.dumps(settings | {"added_tokens_decoder": own}))
        after, _ = load_tokenizers(run(tokenizer=str(folder)))
        assert len(after[STUDENT].vocabulary) == len(before[STUDENT].vocabulary) + 1

    def test_plain_chats_need_no_template_that_can_be_sealed(
        self, run: Callable[..., RunConfig], tmp_path: Path
    ):
        """The remedy that the refusal names."""
        (tmp_path / "bytelevel" / "chat_template.jinja").write_text("{{ eos_token | length }}")
        with pytest.raises(ConfigError, match="set template: plain"):
            load_tokenizers(run(tokenizer="bytes"))
        found, _ = load_tokenizers(run(tokenizer="bytes", template="plain"))
        assert found[STUDENT].fast.chat_template is None

    def test_it_has_the_new_tokenizer(self, run: Callable[..., RunConfig], tmp_path: Path):
        found, warnings = load_tokenizers(run(tokenizer="bytes"))
        assert len(found[STUDENT].vocabulary) == 257
        assert found[STUDENT].max_tokens == 512
        assert warnings == []
        other, _ = load_tokenizers(run(tokenizer=str(tmp_path / "sentencepiece")))
        assert len(other[STUDENT].vocabulary) == 769
        options = {"special_tokens": "target"}
        config = run(tokenizer=str(tmp_path / "sentencepiece"), embeddings=options)
        third, warnings = load_tokenizers(config)
        assert len(third[STUDENT].vocabulary) == 768
        assert all(text.startswith("student.tokenizer: ") for text in warnings)

    def test_validate_tells_it(self, run: Callable[..., RunConfig]):
        lines = list(validate(run(tokenizer="bytes"), strict=True))
        assert lines[0].startswith("student: 257 ids, start token <|endoftext|>")

    @pytest.mark.parametrize(
        ("reference", "reason"),
        [
            ("./absent", "does not exist"),
            ("{folder}/a.jsonl", "is a file"),
            ("{folder}", "holds no tokenizer"),
        ],
    )
    def test_a_tokenizer_that_is_not_there(
        self, run: Callable[..., RunConfig], tmp_path: Path, reference: str, reason: str
    ):
        config = run(tokenizer=reference.format(folder=tmp_path))
        with pytest.raises(ConfigError, match=f"(?s)student.tokenizer: .*{reason}"):
            list(validate(config))

    def test_one_that_loses_text_is_refused(self, run: Callable[..., RunConfig], tmp_path: Path):
        lossy = FastTokenizer(WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
        PreTrainedTokenizerFast(tokenizer_object=lossy).save_pretrained(tmp_path / "lossy")
        with pytest.raises(ConfigError, match=r"student.tokenizer: .* loses bytes of the text"):
            load_tokenizers(run(tokenizer=str(tmp_path / "lossy")))


class TestTraining:
    """From the transferred rows, with methods across tokenizers."""

    @pytest.mark.parametrize(
        ("target", "method"), [("bytes", Bld()), ("sentencepiece", Alm(temperature=5.0))]
    )
    def test_losses_fall(
        self,
        distillation: Callable[..., Any],
        transferred: Callable[..., LanguageModel],
        target: str,
        method: Method,
    ):
        """The teacher is of the old tokenizer; the student is scored in its new one."""
        case = replace(distillation({"same": method}), build_student=lambda: transferred(target))
        trainer = case.trainer(weights=(1.0, 1.0), learning_rate=1e-2)
        bits = [bits_per_byte(trainer.evaluate(case.documents))]
        for _ in range(2):
            report = trainer.step(
                case.documents, case.signals, case.num_scored_bytes, measure_shares=False
            )
        bits.append(bits_per_byte(trainer.evaluate(case.documents)))
        assert bits[1] < bits[0] - 0.05
        assert report.losses[1] > 0

    def test_hidden_states_too(
        self, distillation: Callable[..., Any], transferred: Callable[..., LanguageModel]
    ):
        case = replace(
            distillation({"same": Hidden(projector="none")}),
            build_student=lambda: transferred("bytes"),
        )
        trainer = case.trainer(weights=(0.0, 1.0))
        report = trainer.step(
            case.documents, case.signals, case.num_scored_bytes, measure_shares=False
        )
        assert torch.isfinite(torch.tensor(report.loss))
        assert report.update.grad_norm > 0


def test_seals_are_no_part_of_names(new_tokenizers: dict[str, Tokenizer]):
    fast = new_tokenizers["bytes"].fast
    assert fast.eos_token == sealed("<|endoftext|>")
    again = Tokenizer(fast, "again", start_token="<|endoftext|>")
    assert again.start_id == 256
