"""Checkpoints that plain ``from_pretrained`` opens: written aside, flushed, renamed."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray

from orchestrator.atomic import atomic_folder


def save(students: Sequence[Any], target: Path, state: dict[str, Any]) -> Path:
    """Write the student's model, tokenizer and ``trainer_state.json`` into a new folder.

    All ranks take part (under ZeRO-3 each holds a piece); rank 0 writes.
    """
    with atomic_folder(target) as folder:
        ray.get([student.save.remote(folder) for student in students])
        text = json.dumps(state, indent=2, sort_keys=True)
        (folder / "trainer_state.json").write_text(text + "\n", encoding="utf-8")
    return target
