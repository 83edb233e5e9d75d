"""Which weights a model's folder or hub id stands for, told without reading all of them."""

import hashlib
from pathlib import Path

from teachers.source import ModelSource

FILES = ("*.safetensors", "*.bin", "config.json")
SAMPLES = 64
SAMPLE_BYTES = 1 << 16


def model_identity(source: ModelSource) -> str:
    """A hub model's commit; a folder's weight files and config by size and samples of content.

    Training changes nearly every number, so 64 samples of 64 KiB tell two models apart and cost
    no more for a large model than for a small one. Copies of a folder have the same identity.
    """
    folder = Path(source.path)
    if not folder.is_dir():
        return _commit(source)
    sha = hashlib.sha256()
    for path in sorted(path for pattern in FILES for path in folder.glob(pattern)):
        sha.update(f"{path.name}:{path.stat().st_size}:".encode())
        _add_samples(sha, path)
    return f"weights {sha.hexdigest()[:16]}"


def _add_samples(sha: "hashlib._Hash", path: Path) -> None:
    """From the first to the last bytes, evenly; a file of 4 MiB or less is read whole."""
    rest = max(0, path.stat().st_size - SAMPLE_BYTES)
    with path.open("rb") as file:
        for number in range(SAMPLES):
            file.seek(number * rest // (SAMPLES - 1))
            sha.update(file.read(SAMPLE_BYTES))


def _commit(source: ModelSource) -> str:
    """The cached snapshot's; what was asked for where nothing is cached yet."""
    from huggingface_hub import try_to_load_from_cache  # slow import

    found = try_to_load_from_cache(source.path, "config.json", revision=source.revision)
    if isinstance(found, str):
        return f"commit {Path(found).parent.name}"
    return f"revision {source.revision}"
