"""What a run file names on this machine: models, data files, the output folder, unfetched assets.

Everything is looked at before anything is loaded, and all that is wrong is told at once.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.assets import resolve
from orchestrator.config import RunConfig, TeacherConfig
from orchestrator.errors import ConfigError
from orchestrator.sources import is_sample, model_path
from orchestrator.student.embeddings.options import BYTES
from teachers.signal_cache.cache import MANIFEST

ASSET = "asset:"

TOKENIZER_PLACE = "student.tokenizer"

PARITY = "model_parity"

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tekken.json",
    "tiktoken.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
)
"""A model's folder holds at least one of these, or it has no tokenizer."""


@dataclass(frozen=True)
class Reference:
    """One model or file as the run file names it, and its YAML path."""

    place: str
    text: str

    @property
    def asset(self) -> str | None:
        """The asset it belongs to, if it is one."""
        if not self.text.startswith(ASSET):
            return None
        return self.text.removeprefix(ASSET).partition("/")[0]


@dataclass(frozen=True)
class Found:
    """What is wrong (YAML path and sentence), and the assets that are not fetched yet."""

    problems: tuple[str, ...]
    unfetched: tuple[Reference, ...]


def find_references(config: RunConfig) -> Found:
    """Look at everything the run file names; nothing is loaded, toy assets are made."""
    unfetched, problems = [], []
    for reference in [*model_references(config), *data_references(config)]:
        try:
            path = _located(reference)
        except FileNotFoundError:
            unfetched.append(reference)
        except ValueError as error:
            problems.append(f"{reference.place}: {error}")
        else:
            check = _check_of(reference)
            problems += [f"{reference.place}: {text}" for text in check(path, reference.text)]
    for place, folder in _written_folders(config):
        problems += [f"{place}: {text}" for text in output_problems(folder)]
    return Found(tuple(problems), tuple(unfetched))


def _written_folders(config: RunConfig) -> Iterator[tuple[str, Path]]:
    """Every folder that the run writes into, with its YAML path."""
    yield "output_dir", config.output_dir
    for index, teacher in enumerate(config.teachers):
        if teacher.record is not None:
            yield teacher_place(config, index, "record"), Path(teacher.record)


def require_references(config: RunConfig) -> None:
    """Refuse a run whose models, data or output folder are not there.

    Raises:
        ConfigError: lists everything that is wrong, with its YAML path.
    """
    found = find_references(config)
    refuse([*found.problems, *map(how_to_fetch, found.unfetched)])


def refuse(problems: Sequence[str]) -> None:
    """Raise ConfigError with all problems, one a line, unless there are none."""
    if problems:
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        lines = [f"  {problem}" for problem in problems]
        raise ConfigError("\n".join([f"what the run file names: {count}", *lines]))


def how_to_fetch(reference: Reference) -> str:
    """What to say of an asset that is not in the cache."""
    return (
        f"{reference.place}: {reference.text} is not fetched yet; run: "
        f"tutelage assets {reference.asset}"
    )


def model_references(config: RunConfig) -> list[Reference]:
    """The student's model, then the teachers'."""
    teachers = [
        Reference(teacher_place(config, index, key), text)
        for index, teacher in enumerate(config.teachers)
        for key, text in _named_by(teacher).items()
    ]
    own, given = Reference("student.init", config.student.init), config.student.tokenizer
    if not config.student.transfers or given in (None, BYTES):
        return [own, *teachers]
    return [own, Reference(TOKENIZER_PLACE, given), *teachers]


def _named_by(teacher: TeacherConfig) -> dict[str, str]:
    """The teacher's keys that name a model, a tokenizer, a cache or a sample here."""
    keys = ("model", "path", PARITY) if teacher.server is None else ("tokenizer", PARITY)
    found = {key: getattr(teacher, key) for key in keys}
    return {key: text for key, text in found.items() if text is not None}


def teacher_place(config: RunConfig, index: int, key: str | None = None) -> str:
    """YAML path of a teacher's key, by default of that which names its tokenizer.

    The model of one of kind ``self`` is that of the student.
    """
    teacher = config.teachers[index]
    if key is None and teacher.path is not None:
        key = "path"
    if key is None and teacher.model is None:
        return "student.init"
    key = key or ("model" if teacher.server is None else "tokenizer")
    return f"teachers[{index}] ({config.teachers[index].name}).{key}"


def data_references(config: RunConfig) -> list[Reference]:
    """Every data file."""
    splits = {
        "train": config.data.train,
        "validation": config.data.validation,
        "held_out": config.data.held_out,
    }
    return [
        Reference(f"data.{split}[{index}]", path)
        for split, paths in splits.items()
        for index, path in enumerate(paths)
    ]


def _located(reference: Reference) -> Path | None:
    """The file or folder; None for a hub id.

    Raises:
        FileNotFoundError: an asset that is not fetched.
        ValueError: no such asset, or no such folder.
    """
    if reference.asset is not None:
        return resolve(reference.text)
    if reference.place.startswith("data."):
        return Path(reference.text).absolute()
    if _is_cache(reference) or (reference.place.endswith(PARITY) and is_sample(reference.text)):
        return Path(reference.text).expanduser().absolute()
    folder = Path(model_path(reference.text))
    return folder if folder.is_absolute() else None


def _check_of(reference: Reference) -> Callable[[Path | None, str], Iterator[str]]:
    if reference.place.startswith("data."):
        return _data_problems
    if _is_cache(reference):
        return _cache_problems
    if reference.place.endswith(PARITY) and is_sample(reference.text):
        return _sample_problems
    if reference.place.endswith(".tokenizer"):
        return _tokenizer_problems
    return _student_problems if reference.place == "student.init" else _model_problems


def _model_problems(folder: Path | None, text: str) -> Iterator[str]:
    if folder is None:
        return
    if not folder.is_dir():
        yield f"{text} is a file; expected the folder of a model"
        return
    if not (folder / "config.json").is_file():
        yield f"{folder} holds no config.json; expected the folder of a model"
    yield from _tokenizer_problems(folder, text)


def _student_problems(folder: Path | None, text: str) -> Iterator[str]:
    yield from _model_problems(folder, text)
    if folder is not None and (folder / "modeling_ngram_bytes.py").is_file():
        yield (
            f"{folder} holds a model with n-gram embeddings, from which no student starts in this "
            "release; expected the model that it was made from, with embeddings.ngrams: true"
        )


def _tokenizer_problems(folder: Path | None, text: str) -> Iterator[str]:
    if folder is None:
        return
    if not folder.is_dir():
        yield f"{text} is a file; expected the folder of a tokenizer"
    elif not any((folder / name).is_file() for name in TOKENIZER_FILES):
        yield (
            f"{folder} holds no tokenizer; expected tokenizer.json beside the weights: save the "
            "model's own tokenizer into the folder"
        )


def _is_cache(reference: Reference) -> bool:
    return reference.place.endswith(".path")


def _cache_problems(path: Path | None, text: str) -> Iterator[str]:
    if path is None or not (path / MANIFEST).is_file():
        yield (
            f"{text} holds no {MANIFEST}; expected a folder that tutelage capture or the key "
            "record wrote"
        )


def _sample_problems(path: Path | None, text: str) -> Iterator[str]:
    if path is None or not path.is_file():
        yield f"{text} does not exist ({path}); expected the file of a recorded sample"


def _data_problems(path: Path | None, text: str) -> Iterator[str]:
    if path is None or not path.exists():
        yield f"data file {text} does not exist ({path})"
    elif path.is_dir():
        yield f"data file {text} is a folder; expected a .jsonl file"
    elif not path.is_file():
        yield f"data file {text} is no regular file; expected a .jsonl file"
    elif not os.access(path, os.R_OK):
        yield f"data file {text} may not be read by this user"


def output_problems(folder: Path) -> Iterator[str]:
    """Why a folder cannot be written to."""
    folder = folder.expanduser().absolute()
    if folder.exists() and not folder.is_dir():
        yield f"{folder} is a file; expected a folder, or a name that is free"
        return
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir():
        yield f"{existing} is a file, so {folder} cannot be made; choose another"
    elif not os.access(existing, os.W_OK | os.X_OK):
        yield f"{existing} may not be written by this user; choose another"
