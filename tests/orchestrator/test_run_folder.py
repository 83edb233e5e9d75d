"""Nothing that the user has is overwritten."""

import json
from pathlib import Path

import pytest

from orchestrator.config import RunConfig, load_run, parse_run
from orchestrator.errors import ConfigError
from orchestrator.run_folder import locked, open_run_folder


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return parse_run(
        {
            "student": {"init": "org/model"},
            "data": {"train": ["t.jsonl"], "held_out": ["h.jsonl"]},
            "output_dir": str(tmp_path / "runs" / "x"),
        }
    )


@pytest.fixture
def full(config: RunConfig) -> Path:
    """The folder with something in it."""
    folder = Path(config.output_dir)
    (folder / "final").mkdir(parents=True)
    (folder / "final" / "weights").write_text("precious")
    return folder


@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize("overwrite", [False, True])
def test_new_or_empty_folder(config, exists, overwrite):
    if exists:
        Path(config.output_dir).mkdir(parents=True)
    folder = open_run_folder(config, overwrite=overwrite)
    assert folder == Path(config.output_dir)
    assert load_run(folder / "resolved.yaml") == config
    assert "torch" in json.dumps(json.loads((folder / "env.json").read_text()))
    assert [p.name for p in folder.parent.iterdir()] == ["x"]


def test_folder_with_content_is_refused_and_untouched(config, full):
    with pytest.raises(ConfigError, match=r"^output_dir: .* is not empty.*--overwrite"):
        open_run_folder(config, overwrite=False)
    assert [p.name for p in full.iterdir()] == ["final"]


def test_a_file_in_its_place_is_refused(config):
    path = Path(config.output_dir)
    path.parent.mkdir(parents=True)
    path.write_text("notes")
    with pytest.raises(ConfigError, match="is not empty"):
        open_run_folder(config, overwrite=False)
    assert path.read_text() == "notes"


def test_overwrite_moves_aside_each_time(config, full, monkeypatch):
    monkeypatch.setattr("time.strftime", lambda _: "20300101-000000")  # within one second
    folder = open_run_folder(config, overwrite=True)
    assert sorted(p.name for p in folder.iterdir()) == ["env.json", "resolved.yaml"]
    open_run_folder(config, overwrite=True)
    names = sorted(p.name for p in full.parent.iterdir())
    assert names == ["x", "x.replaced-20300101-000000", "x.replaced-20300101-000000+"]
    kept = full.parent / "x.replaced-20300101-000000" / "final" / "weights"
    assert kept.read_text() == "precious"


def test_overwrite_leaves_a_folder_in_use(config, full):
    with locked(full), pytest.raises(ConfigError, match="another process is running in"):
        open_run_folder(config, overwrite=True)
    assert (full / "final" / "weights").read_text() == "precious"


@pytest.mark.parametrize(
    ("key", "place"), [("student", "student.init"), ("data", r"data.train\[0\]"), (None, "current")]
)
def test_overwrite_does_not_move_what_the_run_reads(config, full, monkeypatch, key, place):
    (full / "student").mkdir()
    changed = {
        "student": {"student": {"init": str(full / "student")}},
        "data": {"data": {"train": [str(full / "t.jsonl")], "held_out": ["h.jsonl"]}},
        None: {},
    }[key]
    if key is None:
        monkeypatch.chdir(full / "final")
    run = parse_run(config.model_dump(mode="json", exclude_unset=True) | changed)
    with pytest.raises(ConfigError, match=place):
        open_run_folder(run, overwrite=True)
    assert (full / "final" / "weights").read_text() == "precious"
