"""Documents on which a teacher failed: counted, written down, and too many of them end the run.

Such a document trains on without that teacher. ``quarantine.jsonl`` in the run folder has a line
for each teacher and document: ``step``, ``teacher``, ``document``, ``reason``. The tally of a
checkpoint knows them too, so a resumed run goes on counting.
"""

import json
import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from orchestrator.atomic import atomic_write_text
from orchestrator.checkpoint import Tally
from orchestrator.student.arrival import Bad

log = logging.getLogger(__name__)

QUARANTINE = "quarantine.jsonl"


@dataclass(frozen=True)
class Quarantine:
    """Where failures go.

    Args:
        folder: the arm's.
        tally: counts them.
        num_documents: of the training text.
        share: of these, above which a teacher's failures end the run.
    """

    folder: Path
    tally: Tally
    num_documents: int
    share: float

    def begin(self) -> None:
        """Drop the lines of steps that the tally does not know, which are trained again."""
        path = self.folder / QUARANTINE
        if path.is_file():
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            atomic_write_text(path, "".join(line for line in lines if self._is_known(line)))

    def add(self, step: int, failures: Iterable[Bad]) -> None:
        """Take in what the ranks report of a step.

        Raises:
            ValueError: a teacher failed on too many documents.
        """
        for bad in failures:
            names = self.tally.bad_documents.setdefault(bad.teacher, [])
            if bad.document not in names:
                names.append(bad.document)
                self._write(step, bad)
                self._check(bad, len(names))

    def _write(self, step: int, bad: Bad) -> None:
        log.warning(
            "step %d: teacher %s says nothing of document %s: %s",
            step,
            bad.teacher,
            bad.document,
            bad.reason,
        )
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / QUARANTINE).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **asdict(bad)}) + "\n")

    def _check(self, bad: Bad, count: int) -> None:
        if count > self.share * self.num_documents:
            raise ValueError(
                f"teacher {bad.teacher} failed on {count} of {self.num_documents} training "
                f"documents, last on {bad.document}: {bad.reason}. faults.bad_documents allows "
                f"{self.share:g} of them; {self.folder / QUARANTINE} lists all. Try dtype float32 "
                "for the teacher, leave these documents out, or raise faults.bad_documents"
            )

    def _is_known(self, line: str) -> bool:
        try:
            row = json.loads(line)
            return row["document"] in self.tally.bad_documents.get(row["teacher"], [])
        except (ValueError, KeyError, TypeError):
            return False
