"""A checkpoint as a folder for others."""

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from orchestrator.checkpoint.contents import COMPLETE, seal
from orchestrator.errors import ConfigError
from orchestrator.export import export
from teachers.backends.transformers import LanguageModel

TEXT = "The quick brown fox"


@pytest.fixture
def checkpoint(language_model: Callable[..., LanguageModel], tmp_path: Path) -> Path:
    """A checkpoint of a run, with what training keeps in it."""
    folder = tmp_path / "run" / "checkpoint-7"
    student = language_model("llama")
    student.model.save_pretrained(folder)
    student.tokenizer.fast.save_pretrained(folder)
    (folder / "state").mkdir()
    save_file({"moment": torch.ones(3)}, folder / "state" / "adamw.safetensors")
    (folder / "trainer_state.json").write_text('{"step": 7}')
    seal(folder)
    return folder


def logits(folder: Path) -> torch.Tensor:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder)
    ids = AutoTokenizer.from_pretrained(folder)(TEXT, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return model(ids).logits


class TestExport:
    """Good checkpoints."""

    def test_opens_and_says_the_same(self, checkpoint: Path, tmp_path: Path):
        result = export(checkpoint, tmp_path / "out")
        assert torch.equal(logits(tmp_path / "out"), logits(checkpoint))
        assert result.folder == str(tmp_path / "out")
        assert result.dtype == "float32"
        files = {path.name for path in (tmp_path / "out").iterdir()}
        assert files == {
            "README.md",
            "config.json",
            "generation_config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json",
        }
        assert result.num_bytes == sum(p.stat().st_size for p in (tmp_path / "out").iterdir())
        tensors = load_file(checkpoint / "model.safetensors").values()
        assert result.num_tensors == len(tensors)
        assert result.num_parameters == sum(tensor.numel() for tensor in tensors)

    def test_in_another_number_format(self, checkpoint: Path, tmp_path: Path):
        result = export(checkpoint, tmp_path / "out", "bfloat16")
        before = load_file(checkpoint / "model.safetensors")
        after = load_file(tmp_path / "out" / "model.safetensors")
        assert result.dtype == "bfloat16"
        assert before.keys() == after.keys()
        assert all(torch.equal(after[name], t.bfloat16()) for name, t in before.items())
        assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
        assert model.dtype == torch.bfloat16

    def test_tied_weights_and_several_files(self, language_model, tmp_path: Path):
        student = language_model("gemma2", tie_word_embeddings=True)
        student.model.save_pretrained(tmp_path / "in", max_shard_size="20KB")
        student.tokenizer.fast.save_pretrained(tmp_path / "in")
        assert len(list((tmp_path / "in").glob("model-*.safetensors"))) > 1
        export(tmp_path / "in", tmp_path / "out")
        assert torch.equal(logits(tmp_path / "out"), logits(tmp_path / "in"))
        export(tmp_path / "in", tmp_path / "half", "bfloat16")
        assert AutoModelForCausalLM.from_pretrained(tmp_path / "half").dtype == torch.bfloat16

    def test_generation_settings_are_made_where_there_are_none(
        self, checkpoint: Path, tmp_path: Path
    ):
        (checkpoint / COMPLETE).unlink()
        (checkpoint / "generation_config.json").unlink()
        export(checkpoint, tmp_path / "out")
        settings = json.loads((tmp_path / "out" / "generation_config.json").read_text())
        assert settings["eos_token_id"] == 0


class TestPadding:
    """Rows of the embeddings that no token has."""

    @pytest.mark.parametrize(
        ("architecture", "tied"), [("llama", False), ("gemma2", True), ("phi", False)]
    )
    def test_they_are_cut(self, language_model, tmp_path: Path, architecture: str, tied: bool):
        student = language_model(architecture, padded_rows=13, tie_word_embeddings=tied)
        size = len(student.tokenizer.vocabulary)
        student.model.save_pretrained(tmp_path / "in", max_shard_size="20KB")
        student.tokenizer.fast.save_pretrained(tmp_path / "in")
        result = export(tmp_path / "in", tmp_path / "out")
        assert result.num_rows_cut == 13
        before, after = logits(tmp_path / "in"), logits(tmp_path / "out")
        assert after.shape[-1] == size
        torch.testing.assert_close(after, before[..., :size], atol=1e-5, rtol=0)
        config = json.loads((tmp_path / "out" / "config.json").read_text())
        assert config["vocab_size"] == size
        index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
        assert index["metadata"]["total_parameters"] == result.num_parameters
        kept = export(tmp_path / "in", tmp_path / "kept", "bfloat16", keep_padding=True)
        assert kept.num_rows_cut == 0
        assert logits(tmp_path / "kept").shape[-1] == size + 13
        half = export(tmp_path / "in", tmp_path / "half", "bfloat16")
        assert (half.num_rows_cut, half.dtype) == (13, "bfloat16")

    def test_generation_need_not_suppress_them_any_more(self, language_model, tmp_path: Path):
        student = language_model("llama", padded_rows=13)
        size = len(student.tokenizer.vocabulary)
        student.model.generation_config.suppress_tokens = [7, *range(size, size + 13)]
        student.model.save_pretrained(tmp_path / "in")
        student.tokenizer.fast.save_pretrained(tmp_path / "in")
        for name, padded in (("out", False), ("kept", True)):
            export(tmp_path / "in", tmp_path / name, keep_padding=padded)
            settings = json.loads((tmp_path / name / "generation_config.json").read_text())
            assert settings["suppress_tokens"] == [7, *range(size, size + 13 * padded)]

    def test_refused_where_the_tokenizer_has_more_ids(self, language_model, tmp_path: Path):
        """Its model would fail at the first such id."""
        student = language_model("llama")
        student.model.save_pretrained(tmp_path / "in")
        fast = copy.deepcopy(student.tokenizer.fast)
        fast.add_tokens(["one more"])
        fast.save_pretrained(tmp_path / "in")
        with pytest.raises(ConfigError, match="has 513 ids, but the model only 512 rows"):
            export(tmp_path / "in", tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_refused_where_something_else_has_such_rows(self, language_model, tmp_path: Path):
        student = language_model("llama", padded_rows=64, hidden_size=576, head_dim=144)
        student.model.save_pretrained(tmp_path / "in")
        student.tokenizer.fast.save_pretrained(tmp_path / "in")
        assert len(student.tokenizer.vocabulary) + 64 == 576
        with pytest.raises(ConfigError, match=r"64 rows .* have no token, but .*layernorm.weight"):
            export(tmp_path / "in", tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_refused_where_a_special_id_is_one_of_them(self, language_model, tmp_path: Path):
        student = language_model("llama", padded_rows=13)
        student.model.save_pretrained(tmp_path / "in")
        student.tokenizer.fast.save_pretrained(tmp_path / "in")
        config = json.loads((tmp_path / "in" / "config.json").read_text())
        (tmp_path / "in" / "config.json").write_text(json.dumps(config | {"pad_token_id": 520}))
        with pytest.raises(ConfigError, match="pad_token_id is 520, which is no token"):
            export(tmp_path / "in", tmp_path / "out")


@pytest.mark.filterwarnings(
    "ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"
)  # peft
class TestAdapters:
    """Folders of peft."""

    @pytest.fixture
    def adapted(self, language_model, tmp_path: Path) -> torch.Tensor:
        """Logits of a model with adapters, which are saved alone."""
        student = language_model("llama", seed=3)
        student.model.save_pretrained(tmp_path / "base")
        student.tokenizer.fast.save_pretrained(tmp_path / "base")
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
        options = LoraConfig(r=3, lora_alpha=6, target_modules=["q_proj", "down_proj"])
        adapted = get_peft_model(model, options)
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.5)
        adapted.save_pretrained(tmp_path / "adapters")
        ids = student.tokenizer.fast(TEXT, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            return adapted.eval()(ids).logits

    def test_they_are_merged(self, adapted: torch.Tensor, tmp_path: Path):
        export(tmp_path / "adapters", tmp_path / "out")
        torch.testing.assert_close(logits(tmp_path / "out"), adapted, atol=1e-4, rtol=0)
        assert (logits(tmp_path / "base") - adapted).abs().max() > 0.1
        assert not list((tmp_path / "out").glob("adapter*"))

    def test_a_base_that_is_not_named(self, adapted: torch.Tensor, tmp_path: Path):
        path = tmp_path / "adapters" / "adapter_config.json"
        settings = json.loads(path.read_text()) | {"base_model_name_or_path": None}
        path.write_text(json.dumps(settings))
        with pytest.raises(ConfigError, match="names no base_model_name_or_path"):
            export(tmp_path / "adapters", tmp_path / "out")


class TestRefusals:
    """Nothing is written."""

    def refusal(self, checkpoint: Path, target: Path, error: type[Exception] = ConfigError) -> str:
        with pytest.raises(error) as caught:
            export(checkpoint, target)
        left = [path.name for path in target.parent.iterdir() if target.name in path.name]
        assert left == ([target.name] if error is FileExistsError else [])
        return str(caught.value)

    def test_existing_target(self, checkpoint: Path, tmp_path: Path):
        (tmp_path / "out").mkdir()
        message = self.refusal(checkpoint, tmp_path / "out", FileExistsError)
        assert "out exists already" in message
        assert list((tmp_path / "out").iterdir()) == []

    def test_a_target_that_cannot_be_written(self, checkpoint: Path, tmp_path: Path):
        (tmp_path / "note.txt").write_text("")
        with pytest.raises(ConfigError, match=r"target folder: .*note.txt is a file, so .* choose"):
            export(checkpoint, tmp_path / "note.txt" / "out")

    def test_no_folder(self, tmp_path: Path):
        message = self.refusal(tmp_path / "none", tmp_path / "out")
        assert message == (
            f"{tmp_path / 'none'} is no folder; expected a checkpoint of a run, such as "
            "OUTPUT_DIR/final or OUTPUT_DIR/checkpoint-100"
        )

    def test_a_run_is_no_checkpoint(self, checkpoint: Path, tmp_path: Path):
        message = self.refusal(checkpoint.parent, tmp_path / "out")
        assert "holds no config.json, no model.safetensors, no tokenizer; expected" in message

    def test_damaged_checkpoint(self, checkpoint: Path, tmp_path: Path):
        content = bytearray((checkpoint / "model.safetensors").read_bytes())
        content[-1] ^= 1
        (checkpoint / "model.safetensors").write_bytes(content)
        assert "model.safetensors has another content than was written" in self.refusal(
            checkpoint, tmp_path / "out"
        )

    @pytest.mark.parametrize("dtype", [None, "bfloat16"])
    def test_weights_cut_off(self, checkpoint: Path, tmp_path: Path, dtype: str | None):
        (checkpoint / COMPLETE).unlink()
        path = checkpoint / "model.safetensors"
        path.write_bytes(path.read_bytes()[:1000])
        with pytest.raises(ConfigError, match=rf"^{checkpoint}: its weights cannot be read \("):
            export(checkpoint, tmp_path / "out", dtype)
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("change", ["missing", "unexpected"])
    def test_weights_that_do_not_fit_the_configuration(
        self, checkpoint: Path, tmp_path: Path, change: str
    ):
        (checkpoint / COMPLETE).unlink()
        tensors = load_file(checkpoint / "model.safetensors")
        if change == "missing":
            del tensors["model.norm.weight"]
        else:
            tensors["model.layers.9.mlp.up_proj.weight"] = torch.ones(2, 2)
        save_file(tensors, checkpoint / "model.safetensors", metadata={"format": "pt"})
        message = self.refusal(checkpoint, tmp_path / "out")
        assert "the weights do not fit config.json: " in message
        assert f"{change}_keys" in message
