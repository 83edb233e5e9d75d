"""Documents on which a teacher failed: each counted once, written down, too many end the run."""

import json
from pathlib import Path

import pytest

from orchestrator.checkpoint import Tally
from orchestrator.metrics import fault_metrics
from orchestrator.quarantine import QUARANTINE, Quarantine
from orchestrator.student.arrival import Bad


def bad(number: int, teacher: str = "a") -> Bad:
    return Bad(teacher, f"text:{number}", "its hidden states are not finite")


def rows(folder: Path) -> list[tuple[int, str, str]]:
    lines = map(json.loads, (folder / QUARANTINE).read_text().splitlines())
    return [(row["step"], row["teacher"], row["document"]) for row in lines]


def test_each_once(tmp_path, caplog):
    tally = Tally()
    quarantine = Quarantine(tmp_path, tally, 100, 0.02)
    quarantine.add(3, [bad(1), bad(1, "b")])
    quarantine.add(9, [bad(1)])  # the second epoch
    quarantine.add(9, [])
    assert rows(tmp_path) == [(3, "a", "text:1"), (3, "b", "text:1")]
    assert tally.bad_documents == {"a": ["text:1"], "b": ["text:1"]}
    assert caplog.text.count("says nothing of document text:1") == 2
    assert fault_metrics(tally) == {"teacher/a/bad_documents": 1.0, "teacher/b/bad_documents": 1.0}


def test_too_many_end_the_run(tmp_path):
    quarantine = Quarantine(tmp_path, Tally(), 100, 0.02)
    quarantine.add(1, [bad(1), bad(2), bad(3, "b")])
    with pytest.raises(ValueError, match=r"teacher a failed on 3 of 100 .* 0.02 of them") as caught:
        quarantine.add(2, [bad(4)])
    assert "its hidden states are not finite" in str(caught.value)
    assert len(rows(tmp_path)) == 4  # also the one that was too many


def test_none_is_allowed(tmp_path):
    with pytest.raises(ValueError, match="failed on 1 of 100"):
        Quarantine(tmp_path, Tally(), 100, 0.0).add(0, [bad(1)])


def test_a_resumed_run_goes_on_counting(tmp_path):
    first = Quarantine(tmp_path, Tally(), 100, 0.02)
    first.add(1, [bad(1)])
    kept = Tally(bad_documents={"a": ["text:1"]})  # of the checkpoint
    first.add(5, [bad(2)])
    with (tmp_path / QUARANTINE).open("a") as file:
        file.write('{"step": 6, "tea')  # killed in the middle
    again = Quarantine(tmp_path, kept, 100, 0.02)
    again.begin()
    assert rows(tmp_path) == [(1, "a", "text:1")]
    again.add(5, [bad(1), bad(2)])
    assert rows(tmp_path) == [(1, "a", "text:1"), (5, "a", "text:2")]
    with pytest.raises(ValueError, match="failed on 3 of 100"):
        again.add(6, [bad(3)])


def test_nothing_happened(tmp_path):
    Quarantine(tmp_path / "run", Tally(), 10, 0.0).begin()
    assert fault_metrics(Tally(dropped={"b": 3})) == {"teacher/b/dropped": 1.0}
