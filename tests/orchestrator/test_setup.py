"""What is read before any weight: everything that does not fit is said with its place."""

import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable
from copy import copy
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig

from losses.alignment.vocabulary import Vocabulary
from orchestrator.agreement import MOST_PADDED_ROWS, compare_config
from orchestrator.config import parse_run
from orchestrator.config.yaml_text import dump_yaml
from orchestrator.errors import ConfigError
from orchestrator.setup import check_methods, describe, set_up
from orchestrator.validation import validate

ROOT = Path(__file__).resolve().parents[2]

SMALL = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}


def save_model(folder: Path, fast: Any, **config: Any) -> None:
    """A model's folder without weights."""
    ids = {"bos_token_id": None, "eos_token_id": None, "vocab_size": len(fast)}
    LlamaConfig(**SMALL, **{**ids, **config}).save_pretrained(folder)
    fast.save_pretrained(folder)


@pytest.fixture
def run(fast_tokenizers: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """A run with one teacher of each family; its folders hold no weights."""
    for name, fast in fast_tokenizers.items():
        save_model(tmp_path / name, fast)
    rows = [{"text": "A text of some length, cut."}, {"text": "▁"}, {"text": "short"}]
    data = [str(tmp_path / f"{name}.jsonl") for name in ("train", "first", "second")]
    for path, first in zip(
        data, (rows[0], {"text": "Held out."}, {"text": "This too."}), strict=True
    ):
        Path(path).write_text("\n".join(json.dumps(row) for row in [first, *rows[1:]]))
    return {
        "student": {"init": str(tmp_path / "bytelevel")},
        "teachers": [
            {"name": "same", "model": str(tmp_path / "bytelevel"), "methods": [{"name": "kl"}]},
            {
                "name": "other",
                "model": str(tmp_path / "sentencepiece"),
                "methods": [{"name": "alm"}],
            },
        ],
        "data": {
            "train": data[:1],
            "held_out": data[1:],
            "held_out_limit": 1,
            "max_length": 8,
        },
        "output_dir": str(tmp_path / "run"),
    }


def refusal(run: dict[str, Any]) -> str:
    """What both the run and ``validate`` say against it."""
    with pytest.raises(ConfigError) as caught:
        set_up(parse_run(run))
    with pytest.raises(ConfigError) as validated:
        list(validate(parse_run(run), strict=True))
    assert str(validated.value) == str(caught.value)
    return str(caught.value)


def problems(run: dict[str, Any]) -> list[str]:
    head, *lines = refusal(run).splitlines()
    assert head == f"what the run file names: {len(lines)} problem{'s' if len(lines) > 1 else ''}"
    return [line.removeprefix("  ") for line in lines]


class TestGoodRun:
    """Nothing is wrong."""

    def test_what_it_reads(self, run):
        setup = set_up(parse_run(run))
        assert [t.name for t in setup.tokenizers] == ["student", "same", "other"]
        assert [d.name.rsplit(":")[-1] for d in setup.train.documents] == ["1", "3"]
        assert len(setup.held_out.documents) == 2  # the first of each file
        assert setup.train.quarantined == {"student": 0, "same": 0, "other": 1}
        text = describe(setup.train, ["student", "same", "other"])
        assert text.startswith(
            f"2 documents, {setup.train.num_scored_bytes} scored bytes, 1 cut to length"
        )
        assert "1 left out by other: literal ▁ becomes a space" in text

    def test_validate_says_it_in_lines(self, run):
        run["data"]["validation"] = [f"{run['data']['train'][0]}.more.jsonl"]
        Path(run["data"]["validation"][0]).write_text('{"text": "short"}')
        lines = list(validate(parse_run(run), strict=True))
        assert lines[2].startswith("other: 768 ids, start token <bos>")
        assert any(line.startswith("held out: 2 documents") for line in lines)
        assert any(line.startswith("validation: 1 documents") for line in lines)
        assert "100 steps of 8 documents: 400.00 epochs" in lines

    def test_seen_text_among_the_held_out_is_told(self, run, caplog):
        run["data"]["held_out_limit"] = 3
        told = "data.held_out: 2 of 4 documents are in data.train as well"
        set_up(parse_run(run))
        assert told in caplog.text
        assert any(told in line for line in validate(parse_run(run)))
        with pytest.raises(ConfigError, match="2 of 4 documents"):
            list(validate(parse_run(run), strict=True))

    def test_garbage_is_collected_again_afterwards(self, run):
        set_up(parse_run(run))
        assert gc.isenabled()


def test_validate_loads_no_weights(run, tmp_path):
    """Ray, DeepSpeed and what reads weights are not even imported: that takes seconds."""
    (tmp_path / "run.yaml").write_text(dump_yaml(run))
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from orchestrator.cli import app\n"
        "result = CliRunner().invoke(app, ['validate', sys.argv[1], '--strict'])\n"
        "assert result.exit_code == 0, result.output\n"
        "print([name for name in ('ray', 'deepspeed', 'teachers.backends.transformers',\n"
        "    'transformers.modeling_utils') if name in sys.modules])\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "run.yaml")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


class TestReferences:
    """What the run file names is not there, or is something else."""

    def test_everything_that_is_missing_is_told_at_once(self, run, tmp_path):
        run["student"]["init"] = str(tmp_path / "no-student")
        run["teachers"][1]["model"] = "./no/teacher"
        run["data"]["train"] = ["none.jsonl", str(tmp_path / "folder.jsonl")]
        run["data"]["validation"] = ["asset:gsm9k/train.jsonl"]
        (tmp_path / "folder.jsonl").mkdir()
        run["output_dir"] = run["data"]["held_out"][0]
        lines = problems(run)
        assert [line.partition(": ")[0] for line in lines] == [
            "student.init",
            "teachers[1] (other).model",
            "data.train[0]",
            "data.train[1]",
            "data.validation[0]",
            "output_dir",
        ]
        assert f"model folder {tmp_path / 'no-student'} does not exist" in lines[0]
        assert "model folder ./no/teacher does not exist" in lines[1]
        assert "data file none.jsonl does not exist" in lines[2]
        assert "folder.jsonl is a folder; expected a .jsonl file" in lines[3]
        assert "is no known asset: did you mean 'asset:gsm8k/train.jsonl'?" in lines[4]
        assert "first.jsonl is a file; expected a folder, or a name that is free" in lines[5]

    def test_teacher_without_tokenizer(self, run, tmp_path):
        empty = tmp_path / "empty"
        LlamaConfig(**SMALL).save_pretrained(empty)
        run["teachers"][1]["model"] = str(empty)
        assert problems(run) == [
            f"teachers[1] (other).model: {empty} holds no tokenizer; expected tokenizer.json "
            "beside the weights: save the model's own tokenizer into the folder"
        ]

    def test_folder_that_is_no_model(self, run, tmp_path):
        (tmp_path / "empty").mkdir()
        run["student"]["init"] = str(tmp_path / "empty")
        first, second = problems(run)
        assert first == (
            f"student.init: {tmp_path / 'empty'} holds no config.json; expected the folder of a "
            "model"
        )
        assert "holds no tokenizer" in second

    def test_model_that_is_a_file(self, run):
        run["student"]["init"] = run["data"]["train"][0]
        assert problems(run) == [
            f"student.init: model {run['data']['train'][0]} is a file; expected a folder with "
            "config.json"
        ]

    @pytest.mark.parametrize("name", ["tokenizer.json", "config.json"])
    def test_damaged_model_folder(self, run, tmp_path, name):
        (tmp_path / "sentencepiece" / name).write_text("{")
        assert refusal(run).startswith(
            "teachers[1] (other).model: cannot load the tokenizer of " + str(tmp_path)
        )

    def test_output_folder_below_a_file(self, run):
        file = run["data"]["train"][0]
        run["output_dir"] = f"{file}/a/b"
        assert problems(run) == [
            f"output_dir: {file} is a file, so {file}/a/b cannot be made; choose another"
        ]

    def test_what_this_user_may_not_touch(self, run, tmp_path, monkeypatch):
        forbidden = {str(tmp_path), run["data"]["train"][0]}
        access: Callable[..., bool] = os.access
        monkeypatch.setattr(
            "os.access", lambda path, mode: str(path) not in forbidden and access(path, mode)
        )
        assert problems(run) == [
            f"data.train[0]: data file {run['data']['train'][0]} may not be read by this user",
            f"output_dir: {tmp_path} may not be written by this user; choose another",
        ]


class TestUnfetched:
    """Assets that are not in the cache."""

    @pytest.fixture(autouse=True)
    def empty_cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "cache"))

    def lines(self, run: dict[str, Any]) -> list[str]:
        return list(validate(parse_run(run)))

    def test_strict_and_train_refuse(self, run):
        run["teachers"][1]["model"] = "asset:gemma-3-270m"
        run["data"]["train"] = ["asset:prose/train.jsonl"]
        assert problems(run) == [
            "teachers[1] (other).model: asset:gemma-3-270m is not fetched yet; run: "
            "tutelage assets gemma-3-270m",
            "data.train[0]: asset:prose/train.jsonl is not fetched yet; run: tutelage assets prose",
        ]

    def test_the_rest_is_checked(self, run):
        run["teachers"][1]["model"] = "asset:gemma-3-270m"
        lines = self.lines(run)
        assert lines[0] == (
            "warning: teachers[1] (other).model: asset:gemma-3-270m is not fetched yet; run: "
            "tutelage assets gemma-3-270m"
        )
        assert any(line.startswith("train: 3 documents") for line in lines)
        run["data"]["held_out"] = ["none.jsonl"]
        with pytest.raises(ConfigError, match=r"none\.jsonl does not exist"):
            self.lines(run)

    def test_without_the_student_documents_are_still_read(self, run):
        run["student"]["init"] = "asset:gemma-3-270m"
        lines = self.lines(run)
        assert "train: 3 documents; not cut, the student is not fetched yet" in lines
        with Path(run["data"]["train"][0]).open("a") as file:
            file.write("\n{")
        with pytest.raises(ConfigError, match=r"train\.jsonl:4: not a JSON object"):
            self.lines(run)

    def test_without_some_data(self, run):
        run["data"]["train"] = ["asset:prose/train.jsonl"]
        lines = self.lines(run)
        assert not any(line.startswith("train:") for line in lines)
        assert any(line.startswith("held out: 2 documents") for line in lines)


class TestAgreement:
    """A tokenizer and a configuration that do not belong together."""

    def test_vocabulary_smaller_than_the_tokenizer(self, run, tmp_path, fast_tokenizers):
        save_model(tmp_path / "sentencepiece", fast_tokenizers["sentencepiece"], vocab_size=700)
        assert refusal(run) == (
            "teachers[1] (other).model: the tokenizer has 768 ids, but the model only 700 rows "
            "(vocab_size in config.json); tokenizer and model do not belong together"
        )

    def test_special_id_outside_the_model(self, run, tmp_path, fast_tokenizers):
        save_model(tmp_path / "bytelevel", fast_tokenizers["bytelevel"], eos_token_id=[0, 999])
        assert refusal(run) == (
            "student.init: eos_token_id in config.json is 999, outside the model's 512 rows"
        )

    def test_special_id_that_is_an_ordinary_token(self, run, tmp_path, fast_tokenizers, caplog):
        save_model(tmp_path / "bytelevel", fast_tokenizers["bytelevel"], bos_token_id=300)
        sentence = 'student.init: bos_token_id in config.json is 300, which is the ordinary token "'
        lines = list(validate(parse_run(run)))
        assert lines[0].startswith(f"warning: {sentence}")
        set_up(parse_run(run))
        assert sentence in caplog.text
        with pytest.raises(ConfigError, match="is it the tokenizer of this model"):
            list(validate(parse_run(run), strict=True))

    def test_configuration_of_several_parts(self, run, tmp_path):
        text = {"model_type": "gemma3_text", "vocab_size": 700}
        config = {"model_type": "gemma3", "vocab_size": 9000, "text_config": text}
        (tmp_path / "sentencepiece" / "config.json").write_text(json.dumps(config))
        assert "the tokenizer has 768 ids, but the model only 700 rows" in refusal(run)

    def test_a_model_of_another_kind(self, run, tmp_path):
        (tmp_path / "sentencepiece" / "config.json").write_text('{"model_type": "vit"}')
        assert "config.json (model_type vit) has no vocab_size; expected the" in refusal(run)

    @pytest.mark.parametrize(
        ("template", "flaw"), [("{% for", "line 1: unexpected"), (5, "it is 5, not text")]
    )
    def test_chat_template_that_is_none(self, run, tmp_path, template, flaw):
        path = tmp_path / "sentencepiece" / "tokenizer_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"chat_template": template}))
        (warning,) = [
            line for line in validate(parse_run(run)) if line.startswith("warning: teachers[1]")
        ]
        assert f"its chat template cannot be used ({flaw}" in warning
        chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        with Path(run["data"]["train"][0]).open("a") as file:
            file.write("\n" + json.dumps({"messages": chat}))
        for check in (set_up, lambda config: list(validate(config))):
            with pytest.raises(ConfigError, match=r"^data\.train: .*train\.jsonl:4 is a chat, but"):
                check(parse_run(run))
        run["teachers"][1]["template"] = "plain"
        set_up(parse_run(run))

    @pytest.mark.parametrize(
        ("changes", "sentence"),
        [
            ({"vocab_size": 512 + MOST_PADDED_ROWS}, None),
            ({"vocab_size": 513 + MOST_PADDED_ROWS}, "but the tokenizer only 512 ids"),
            ({"vocab_size": 520, "eos_token_id": 515}, "but the tokenizer has only 512 ids"),
            ({"eos_token_id": -1, "pad_token_id": None}, None),
            ({"eos_token_id": 0}, None),
        ],
    )
    def test_warnings(self, tokenizers, changes, sentence):
        ids = {"bos_token_id": None, "eos_token_id": None, "vocab_size": 512}
        config = LlamaConfig(**SMALL, **{**ids, **changes})
        agreement = compare_config(config.to_dict(), tokenizers["bytelevel"])
        assert agreement.errors == []
        assert len(agreement.warnings) == (sentence is not None)
        assert (sentence or "") in "".join(agreement.warnings)


class TestTokenizersAndData:
    """What is found when tokenizers and documents are read."""

    def test_method_that_does_not_fit_its_pair(self, run):
        run["teachers"][1]["methods"] = [{"name": "alm"}, {"name": "kl"}]
        assert refusal(run).startswith(
            "teachers[1] (other).methods[1] (kl): method kl needs one vocabulary"
        )

    def test_gold_without_a_common_token(self, run, tokenizers):
        run["teachers"][1]["methods"] = [{"name": "gold"}]
        found = {"student": tokenizers["bytelevel"], "other": copy(tokenizers["sentencepiece"])}
        check_methods(parse_run(run), found)
        found["other"].vocabulary = Vocabulary((None, b"no token of the student"), {0: "end"})
        place = r"teachers\[1\] \(other\)\.methods\[0\] \(gold\): method gold: .* share no token"
        with pytest.raises(ConfigError, match=place):
            check_methods(parse_run(run), found)

    def test_hidden_states_of_other_widths(self, run, tmp_path):
        path = tmp_path / "sentencepiece" / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"hidden_size": 48}))
        run["teachers"][1]["methods"] = [{"name": "hidden", "projector": "none"}]
        assert refusal(run).startswith(
            "teachers[1] (other).methods[0] (hidden): method hidden: the student's hidden states"
        )
        run["teachers"][1]["methods"] = [{"name": "hidden"}]
        assert [t.hidden_size for t in set_up(parse_run(run)).tokenizers][2] == 48

    @pytest.mark.parametrize(
        ("method", "is_refused"),
        [
            ({"name": "dskd"}, True),
            ({"name": "hidden"}, True),
            ({"name": "hidden", "projector": "none"}, False),
            ({"name": "p_kl"}, False),
            ({"name": "bld", "head": "parallel"}, False),  # it reads the student's width alone
        ],
    )
    def test_hidden_states_of_unknown_width(self, run, tokenizers, method, is_refused):
        run["teachers"][1]["methods"] = [method]
        found = {"student": copy(tokenizers["bytelevel"]), "other": tokenizers["sentencepiece"]}
        found["student"].hidden_size = 32
        assert found["other"].hidden_size is None
        if not is_refused:
            check_methods(parse_run(run), found)
            return
        place = rf"methods\[0\] \({method['name']}\): .* 32 \(student\) and None \(teacher\) wide"
        with pytest.raises(ConfigError, match=place):
            check_methods(parse_run(run), found)

    def test_heads_on_a_student_of_unknown_width(self, run, tokenizers):
        run["teachers"][1]["methods"] = [{"name": "bld", "head": "conditioned"}]
        found = {"student": tokenizers["bytelevel"], "other": tokenizers["sentencepiece"]}
        with pytest.raises(ConfigError, match=r"\(bld\): .* width is not known"):
            check_methods(parse_run(run), found)

    def test_start_token_of_a_teacher(self, run):
        run["teachers"][1]["start_token"] = "<s>"
        assert refusal(run).startswith("teachers[1] (other).model: ")
        run["teachers"][1]["start_token"] = "<eos>"
        assert set_up(parse_run(run)).tokenizers[2].start_id == 1

    def test_unreadable_line(self, run):
        path = Path(run["data"]["held_out"][1])
        path.write_text('{"text": "good"}\n\n{"text": "bad"\n')
        run["data"]["held_out_limit"] = None
        assert refusal(run).startswith(f"{path}:3: not a JSON object (")

    @pytest.mark.parametrize("content", ["", "\n \n"])
    def test_empty_data_set(self, run, content):
        path = Path(run["data"]["train"][0])
        path.write_text(content)
        assert refusal(run) == f"data.train: no document in {path}; expected JSON lines"

    def test_text_that_no_tokenizer_covers(self, run):
        Path(run["data"]["train"][0]).write_text('{"text": "▁"}\n{"text": "▁▁"}')
        message = refusal(run)
        assert message.startswith("data.train: none of 2 documents can be used: left out by ")
        assert "'other': {'literal ▁ becomes a space': 2}" in message


class TestLongestDocument:
    """A model reads no more tokens than it has positions."""

    @staticmethod
    def shorten(run: dict[str, Any], tmp_path: Path, name: str) -> None:
        path = tmp_path / name / "config.json"
        config = json.loads(path.read_text()) | {"max_position_embeddings": 12}
        path.write_text(json.dumps(config))
        run["data"]["max_length"] = 40
        rows = [{"text": "short"}, {"text": "This one is of many more tokens than that. " * 4}]
        Path(run["data"]["train"][0]).write_text("\n".join(json.dumps(row) for row in rows))

    def test_teacher_leaves_longer_ones_out(self, run, tmp_path):
        self.shorten(run, tmp_path, "sentencepiece")
        setup = set_up(parse_run(run))
        assert [d.name.rsplit(":")[-1] for d in setup.train.documents] == ["1"]
        text = describe(setup.train, ["student", "same", "other"])
        assert "1 left out by other: longer than the 12 tokens that its model reads" in text

    def test_student_cuts_them(self, run, tmp_path, caplog):
        self.shorten(run, tmp_path, "bytelevel")
        setup = set_up(parse_run(run))
        longest = max(map(len, setup.tokenizers[0].encode(setup.train.documents)))
        assert longest <= 12
        assert setup.train.num_cut == 1
        assert "40 is more than the 12 tokens that the student reads" in caplog.text
