"""Tokenizers that were read before: kept in the cache folder, found again by their files.

Reading and checking one of 250,000 ids takes seconds, importing ``transformers`` for it another.
A reading is sealed with the content of all files beside the weights, the versions of the libraries
and the source of what reads: when one of these is another, or the reading is damaged, the tokenizer
is read anew.
"""

import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

from tokenizers import Tokenizer as FastTokenizer

import losses.alignment
import teachers
from orchestrator.assets import cache_folder
from orchestrator.atomic import atomic_write_bytes
from teachers.reading import Reading, quick_to_build
from teachers.source import ModelSource
from teachers.tokenizer import Tokenizer

log = logging.getLogger(__name__)

LIBRARIES = ("jinja2", "tokenizers", "transformers")
WEIGHTS = (".bin", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx", ".pt", ".pth", ".safetensors")
SEAL = ".sha256"
LEAST_BYTES = 1 << 20
"""Smaller files are read in a moment."""
MOST_BYTES = 1 << 28
"""What else lies beside a model is not worth reading."""


def load_tokenizer(source: ModelSource, name: str, start_token: str | None = None) -> Tokenizer:
    """The same as ``Tokenizer.load``, from the cache folder where it has been read before.

    One that was loaded with a warning is not kept, so that the warning comes each time.

    Raises:
        OSError: see ``Tokenizer.load``.
        ValueError: see ``Tokenizer.load``.
    """
    inputs = _inputs(source)
    if inputs is None:
        return Tokenizer.load(source, name, start_token)
    path = _path(source, start_token)
    if (file := _intact(path, inputs)) is not None:
        return Tokenizer.recall(Reading.from_bytes(file), source, name)
    with _heard() as warnings:
        tokenizer = Tokenizer.load(source, name, start_token)
    if not warnings:
        _keep(tokenizer.reading, path, inputs)
    return tokenizer


def _path(source: ModelSource, start_token: str | None) -> Path:
    """Where the reading of a folder's tokenizer lies."""
    choices = [source.path, source.revision, source.template, start_token]
    name = _digest(json.dumps(choices).encode())[:32]
    return cache_folder() / "known_tokenizers" / f"{name}.safetensors"


def _inputs(source: ModelSource) -> bytes | None:
    """All that a reading depends on; None if it is not kept.

    A hub id stands for other files from time to time, remote code for anything.
    """
    folder = Path(source.path)
    if not folder.is_dir() or source.trust_remote_code:
        return None
    files = _beside_weights(folder)
    if not LEAST_BYTES <= sum(path.stat().st_size for path in files) <= MOST_BYTES:
        return None
    inputs = {
        "files": {str(path.relative_to(folder)): _digest(path.read_bytes()) for path in files},
        "libraries": {name: version(name) for name in LIBRARIES},
        "source": _source_digest(),
    }
    return json.dumps(inputs, sort_keys=True).encode()


def _beside_weights(folder: Path) -> list[Path]:
    """Every file that ``AutoTokenizer`` may read."""
    paths = [*folder.iterdir(), *folder.glob("additional_chat_templates/*")]
    return sorted(path for path in paths if path.is_file() and path.suffix not in WEIGHTS)


@lru_cache(maxsize=1)
def _source_digest() -> str:
    """Of the two packages whose code decides what a reading holds."""
    folders = (Path(path) for package in (teachers, losses.alignment) for path in package.__path__)
    files = sorted(path for folder in folders for path in folder.glob("*.py"))
    return _digest(b"".join(path.read_bytes() for path in files))


def _intact(path: Path, inputs: bytes) -> bytes | None:
    """The file at ``path``; None if there is none, or its seal is not of this and these inputs."""
    try:
        file, seal = path.read_bytes(), path.with_suffix(SEAL).read_bytes()
    except OSError:
        return None
    return file if seal == _digest(inputs + file).encode() else None


def _keep(reading: Reading, path: Path, inputs: bytes) -> None:
    """Write it, if the tokenizer that will be built from it is the same one to the last setting.

    Only the next run would be faster: where it cannot be written, this one goes on.
    """
    quick = quick_to_build(reading.backend)
    if FastTokenizer.from_str(quick).to_str() != reading.backend:
        log.info("a tokenizer is not kept for the next run: its JSON does not give it back")
        return
    file = replace(reading, backend=quick).to_bytes()
    try:
        atomic_write_bytes(path, file)
        atomic_write_bytes(path.with_suffix(SEAL), _digest(inputs + file).encode())
    except OSError as error:
        log.info("the tokenizer is not kept for the next run: %s", error)


class _Listener(logging.Handler):
    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@contextmanager
def _heard() -> Iterator[list[logging.LogRecord]]:
    """The warnings that are logged meanwhile, which still go where they went."""
    handler = _Listener(logging.WARNING)
    loggers = [logging.getLogger(name) for name in ("teachers", "transformers")]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield handler.records
    finally:
        for logger in loggers:
            logger.removeHandler(handler)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
