"""A tokenizer that was read before is the same one, and is read anew whenever something differs."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as FastTokenizer

from losses.document import chat_document, text_document
from orchestrator import known_tokenizers
from orchestrator.config.yaml_text import dump_yaml
from orchestrator.known_tokenizers import load_tokenizer
from teachers.reading import Reading, quick_to_build
from teachers.source import ModelSource
from teachers.tokenizer import Tokenizer

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}"
DOCUMENTS = [
    text_document(
        "text", "A naïve café in 東京 🙂 costs 10 €; why?\n\n\tNobody knows. <|endoftext|>"
    ),
    text_document("unfaithful for one family", "▁"),
    chat_document("chat", [("user", "Hi"), ("assistant", "Hé")]),
]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, in which small tokenizers are kept too."""
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(known_tokenizers, "LEAST_BYTES", 0)
    return tmp_path / "cache" / "known_tokenizers"


@pytest.fixture
def folder(fast_tokenizers: dict[str, Any], tmp_path: Path) -> Path:
    fast_tokenizers["sentencepiece"].save_pretrained(tmp_path / "model")
    change(tmp_path / "model", chat_template=TEMPLATE)
    return tmp_path / "model"


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names with which tokenizers are read from their files."""
    found: list[str] = []
    load = Tokenizer.load

    def counted(source: ModelSource, name: str, start_token: str | None = None) -> Tokenizer:
        found.append(name)
        return load(source, name, start_token)

    monkeypatch.setattr(Tokenizer, "load", counted)
    return found


def change(folder: Path, file: str = "tokenizer_config.json", **keys: object) -> None:
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


def known(folder: Path, name: str = "t", **options: Any) -> Tokenizer:
    return load_tokenizer(ModelSource(str(folder), **options), name)


def views(tokenizer: Tokenizer) -> list[Any]:
    return [
        (view.ids.tolist(), view.byte_ends.tolist(), view.straddling.tolist())
        if hasattr(view, "ids")
        else str(view)
        for view in tokenizer.read(DOCUMENTS)
    ]


class TestTheSame:
    """What comes from the cache is what was read."""

    @pytest.mark.parametrize("family", ["bytelevel", "sentencepiece"])
    @pytest.mark.parametrize("template", [None, "plain"])
    def test_everything(self, fast_tokenizers, tmp_path, loads, family, template):
        fast_tokenizers[family].save_pretrained(tmp_path / "model")
        change(tmp_path / "model", chat_template=TEMPLATE)
        fresh = known(tmp_path / "model", template=template)
        again = known(tmp_path / "model", "another", template=template)
        assert loads == ["t"]
        assert "fast" not in vars(again)
        assert again.name == "another"
        for part in ("vocabulary", "family", "normalisation", "start_id", "max_tokens"):
            mine, expected = getattr(again, part), getattr(fresh, part)
            if part == "normalisation":
                mine, expected = mine.steps, expected.steps
            assert mine == expected, part
        assert (again.cutting, again.fingerprint) == (fresh.cutting, fresh.fingerprint)
        assert again.vocabulary.fingerprint == fresh.vocabulary.fingerprint
        for part in ("has_own", "is_plain", "description", "source", "flaw"):
            assert getattr(again.chat, part) == getattr(fresh.chat, part), part
        again.name = fresh.name
        assert views(again) == views(fresh)
        assert type(again.fast) is type(fresh.fast)

    def test_a_flawed_template_is_told_again(self, folder):
        change(folder, chat_template="{% for")
        flaws = [known(folder).chat.flaw for _ in range(2)]
        assert flaws[0] == flaws[1] is not None

    def test_ids_without_bytes_and_empty_ones(self, tokenizers):
        reading = tokenizers["bytelevel"].reading
        changed = Reading(**{**vars(reading), "start_id": None, "template": {"default": "é"}})
        assert Reading.from_bytes(changed.to_bytes()) == changed
        assert None in reading.vocabulary.token_bytes

    def test_two_choices_for_one_folder(self, folder):
        for _ in range(2):
            starts = [
                load_tokenizer(ModelSource(str(folder)), "t", token).start_id
                for token in (None, "<eos>", "<pad>")
            ]
            assert len(set(starts)) == 3


class TestReadAnew:
    """The files, the libraries, the source or the kept reading are others than they were."""

    def reads(self, folder: Path, loads: list[str]) -> bool:
        before = len(loads)
        known(folder)
        return len(loads) > before

    @pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json", "new.txt"])
    def test_a_file_beside_the_weights(self, folder, loads, file):
        assert self.reads(folder, loads)
        assert not self.reads(folder, loads)
        (folder / "model.safetensors").write_bytes(b"other weights")
        assert not self.reads(folder, loads)
        path = folder / file
        path.write_bytes((path.read_bytes() if path.exists() else b"") + b"\n")
        assert self.reads(folder, loads)
        assert not self.reads(folder, loads)

    def test_the_changed_tokenizer_is_the_one_that_counts(self, folder):
        before = known(folder)
        change(folder, chat_template=None)
        assert before.chat.has_own
        assert not known(folder).chat.has_own

    @pytest.mark.parametrize("what", ["version", "_source_digest"])
    def test_libraries_and_source(self, folder, loads, monkeypatch, what):
        assert self.reads(folder, loads)
        monkeypatch.setattr(known_tokenizers, what, lambda *_: "another")
        assert self.reads(folder, loads)

    @pytest.mark.parametrize("damage", ["cut off", "one bit", "emptied", "no seal", "foreign seal"])
    def test_a_damaged_reading(self, folder, cache, loads, damage):
        fresh = known(folder)
        [path] = cache.glob("*.safetensors")
        content = path.read_bytes()
        seal = path.with_suffix(".sha256")
        if damage == "cut off":
            path.write_bytes(content[:-1])
        elif damage == "one bit":
            path.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
        elif damage == "emptied":
            path.write_bytes(b"")
        elif damage == "no seal":
            seal.unlink()
        else:
            seal.write_bytes(b"\xff")
        assert views(known(folder)) == views(fresh)
        assert len(loads) == 2
        assert (path.read_bytes(), self.reads(folder, loads)) == (content, False)

    def test_a_warning_comes_each_time(self, folder, cache, loads, caplog):
        state = json.loads((folder / "tokenizer.json").read_text())
        state["model"]["dropout"] = 0.1
        (folder / "tokenizer.json").write_text(json.dumps(state))
        for count in (1, 2):
            assert self.reads(folder, loads)
            assert caplog.text.count("BPE dropout of 0.1") == count
        assert not list(cache.glob("*"))


class TestNotKept:
    """What could be another one next time, or is read in a moment."""

    def test_small_and_large_folders(self, folder, cache, monkeypatch):
        size = sum(path.stat().st_size for path in folder.iterdir())
        for name, bound in (("LEAST_BYTES", size + 1), ("MOST_BYTES", size - 1)):
            with monkeypatch.context() as patch:
                patch.setattr(known_tokenizers, name, bound)
                known(folder)
            assert not cache.exists()

    def test_remote_code(self, folder, cache):
        known(folder, trust_remote_code=True, revision="0" * 40)
        assert not cache.exists()

    def test_a_json_that_does_not_give_the_tokenizer_back(self, folder, cache, monkeypatch):
        def other(backend: str) -> str:
            return json.dumps(json.loads(backend) | {"normalizer": {"type": "NFC"}})

        monkeypatch.setattr(known_tokenizers, "quick_to_build", other)
        known(folder)
        assert not cache.exists()

    def test_a_cache_that_cannot_be_written(self, folder, cache):
        cache.parent.write_text("a file")
        assert views(known(folder))


class TestQuickToBuild:
    """Merges as strings, where they can be."""

    def test_the_same_tokenizer(self, tokenizers):
        for tokenizer in tokenizers.values():
            backend = tokenizer.reading.backend
            quick = quick_to_build(backend)
            assert isinstance(json.loads(quick)["model"]["merges"][0], str)
            assert FastTokenizer.from_str(quick).to_str() == backend

    def test_a_part_with_a_space(self):
        backend = json.dumps({"model": {"merges": [["a", "b"], ["a ", "b"]]}})
        assert quick_to_build(backend) == backend
        assert quick_to_build('{"model": {}}') == '{"model": {}}'


def test_the_second_validate_does_not_import_transformers(folder, tmp_path):
    (folder / "config.json").write_text('{"model_type": "llama", "vocab_size": 768}')
    for name in ("train", "held_out"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"text": f"some text to {name}"}))
    teacher = {"name": "t", "model": str(folder), "methods": [{"name": "alm"}]}
    run = {
        "student": {"init": str(folder)},
        "teachers": [teacher],
        "data": {name: [str(tmp_path / f"{name}.jsonl")] for name in ("train", "held_out")},
        "output_dir": str(tmp_path / "run"),
    }
    (tmp_path / "run.yaml").write_text(dump_yaml(run))
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from orchestrator import known_tokenizers\n"
        "from orchestrator.cli import app\n"
        "known_tokenizers.LEAST_BYTES = 0\n"
        "result = CliRunner().invoke(app, ['validate', sys.argv[1]])\n"
        "assert result.exit_code == 0, result.output\n"
        "print(result.stdout, end='')\n"
        "print('transformers' in sys.modules, 'huggingface_hub' in sys.modules)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "run.yaml")]
    said = [
        subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    assert said[0].splitlines()[-1] == "True True"
    assert said[1].splitlines()[-1] == "False False"
    assert said[0].splitlines()[:-1] == said[1].splitlines()[:-1]
