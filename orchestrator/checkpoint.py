"""Checkpoints that plain ``from_pretrained`` opens: written aside, flushed, renamed."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.actors import collect
from orchestrator.atomic import atomic_folder


def save(
    students: Mapping[str, Any], target: Path, state: dict[str, Any], timeout_s: float
) -> Path:
    """Write the student's model, tokenizer and ``trainer_state.json`` into a new folder.

    All ranks take part (under ZeRO-3 each holds a piece); rank 0 writes.
    """
    with atomic_folder(target) as folder:
        pending = {name: student.save.remote(folder) for name, student in students.items()}
        collect(pending, timeout_s, f"saving {target.name}")
        text = json.dumps(state, indent=2, sort_keys=True)
        (folder / "trainer_state.json").write_text(text + "\n", encoding="utf-8")
    return target
