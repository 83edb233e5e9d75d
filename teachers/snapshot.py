"""A teacher that follows the student: versions of one model, each signal with its version.

The student's side writes a version as an ordinary model folder; this side opens it. A signal tells
which version it comes from, so that the student can refuse one that is too old or too new.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from losses.document import Document
from losses.signals import Signal
from teachers.backends.transformers import LanguageModel
from teachers.document_signals import DocumentSignals
from teachers.source import ModelSource
from teachers.teacher import Teacher


@dataclass(frozen=True)
class Version(Signal):
    """Which version of its teacher a document's signals come from: the last entry of its row."""

    number: int


NAME = "version-"
"""What the folder of a version is called, before its number."""


def newest_version(folder: Path) -> tuple[Path, int] | None:
    """The newest version's folder and number; None if there is none.

    Args:
        folder: holds one folder a version.
    """
    found = versions(folder)
    return (found[max(found)], max(found)) if found else None


def versions(folder: Path) -> dict[int, Path]:
    """The folders of all versions by number, without what is half-written."""
    numbers = {path.name.removeprefix(NAME): path for path in folder.glob(f"{NAME}*")}
    return {int(number): path for number, path in numbers.items() if number.isdecimal()}


class SnapshotTeacher(Teacher):
    """A teacher whose weights are renewed in versions; before the first it says nothing."""

    version: int | None = None

    def renew(self, folder: Path, version: int, source: ModelSource) -> None:
        """Take the weights of a version; tokenizer and methods stay.

        Args:
            folder: the version, as ``save_pretrained`` writes it.
            version: its number.
            source: how weights are read; its path and revision do not count.
        """
        found = replace(source, path=str(folder.absolute()), revision=None)
        device = str(self.model.device)
        self.freeze(LanguageModel.load(found, self.model.tokenizer, device))
        self.version = version

    def signals(self, documents: Sequence[Document]) -> list[DocumentSignals]:
        """Each document's signals, then the version.

        Raises:
            ValueError: there is no version yet.
        """
        if self.version is None:
            raise ValueError(
                f"teacher {self.model.tokenizer.name} has no version of the student yet; expected "
                "renew before signals"
            )
        return [(*row, Version(self.version)) for row in super().signals(documents)]


def without_version(
    rows: Sequence[DocumentSignals], teacher: str, expected: int
) -> list[DocumentSignals]:
    """The rows of a teacher that follows the student, their version checked and taken off.

    Raises:
        ValueError: a row has another version, or none.
    """
    found = [row[-1] if row else None for row in rows]
    wrong = [last for last in found if last != Version(expected)]
    if wrong:
        raise ValueError(
            f"teacher {teacher} answered with {wrong[0]}, but the student expects version "
            f"{expected}: the stream was not drained before the teacher was renewed"
        )
    return [row[:-1] for row in rows]
