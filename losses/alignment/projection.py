"""The projection W: what a student's token is worth in the teacher's vocabulary.

Row ``s`` spreads student token ``s`` over teacher tokens, so the student's probabilities times W
are probabilities of teacher tokens. Sparse throughout; ``projection_build`` makes it.

Source: X-Token, arXiv:2605.21699 (the paper's W; the published code differs from it).
"""

import json
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, Int64
from safetensors.numpy import load_file, save_file

RECIPE = 3
"""Raise it whenever the same vocabularies and options give another W."""
TENSORS, METADATA = "projection.safetensors", "projection.json"


@dataclass(frozen=True)
class ProjectionOptions:
    """How W is built.

    Args:
        top_k: entries a row keeps, the heaviest first.
        reverse: also re-tokenize the teacher's tokens with the student's tokenizer and add those
            weights to the rows of the student's pieces, as the published code does.
    """

    top_k: int = 4
    reverse: bool = False

    def __post_init__(self) -> None:
        if self.top_k < 1:
            raise ValueError(f"projection: top_k is {self.top_k}; expected 1 or more")


@dataclass(frozen=True)
class ProjectionKey:
    """What a W belongs to; two equal keys give the same W.

    Args:
        student: fingerprint of the student's vocabulary.
        teacher: fingerprint of the teacher's vocabulary.
        cutting: how both tokenizers cut a text, apart from their vocabularies.
        options: how it was built.
        recipe: version of the building code.
    """

    student: str
    teacher: str
    cutting: str
    options: ProjectionOptions
    recipe: int = RECIPE


@dataclass(frozen=True, eq=False)
class Projection:
    """W: each student token as a distribution over teacher tokens; rows sum to 1 or are empty.

    Args:
        offsets: row ``s`` is ``offsets[s] : offsets[s + 1]``; no rows for a head's padding.
        teacher_ids: the entries' teacher tokens, the heaviest of a row first.
        weights: the entries' weights.
        num_teacher: ids of the teacher's vocabulary, the width of W.
        exact: the row is one match of all bytes, or of the role, with weight 1, and the student's
            tokenizer writes these bytes as this token, not as a twin of it; nor is it the ``end``
            beside an ``end_of_turn`` (or the reverse) that has the same partner.
    """

    offsets: Int64[np.ndarray, "student_plus_one"]
    teacher_ids: Int64[np.ndarray, "entry"]
    weights: Float32[np.ndarray, "entry"]
    num_teacher: int
    exact: Bool[np.ndarray, "student"]

    @property
    def num_student(self) -> int:
        """Ids of the student's vocabulary, the height of W."""
        return len(self.exact)

    @cached_property
    def student_ids(self) -> Int64[np.ndarray, "entry"]:
        """The entries' student tokens, never falling."""
        return np.repeat(np.arange(self.num_student), np.diff(self.offsets))

    def row(self, student_id: int) -> dict[int, float]:
        """One row as teacher id -> weight, the heaviest first."""
        entries = slice(self.offsets[student_id], self.offsets[student_id + 1])
        return dict(
            zip(self.teacher_ids[entries].tolist(), self.weights[entries].tolist(), strict=True)
        )

    def save(self, folder: Path, key: ProjectionKey) -> None:
        """Write tensors and metadata into an existing folder."""
        tensors = {
            "offsets": self.offsets,
            "teacher_ids": self.teacher_ids,
            "weights": self.weights,
            "exact": self.exact,
        }
        save_file(tensors, folder / TENSORS)
        metadata = asdict(key) | {"num_student": self.num_student, "num_teacher": self.num_teacher}
        (folder / METADATA).write_text(json.dumps(metadata, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, key: ProjectionKey) -> "Projection":
        """Read what ``save`` wrote.

        Raises:
            ValueError: the folder holds the W of other vocabularies, options or recipe.
        """
        metadata = json.loads((folder / METADATA).read_text(encoding="utf-8"))
        for name, expected in asdict(key).items():
            if metadata.get(name) != expected:
                raise ValueError(
                    f"projection in {folder}: {name} is {metadata.get(name)}, expected "
                    f"{expected}; it belongs to another pair, remove the folder to build it anew"
                )
        tensors = load_file(folder / TENSORS)
        return cls(num_teacher=metadata["num_teacher"], **tensors)


@lru_cache(maxsize=4)
def identity_projection(num_ids: int) -> Projection:
    """W of a vocabulary and itself: every id is worth itself.

    >>> identity_projection(3).row(1)
    {1: 1.0}
    """
    ids = np.arange(num_ids + 1)
    weights, exact = np.ones(num_ids, dtype=np.float32), np.ones(num_ids, dtype=bool)
    return Projection(ids, ids[:-1], weights, num_ids, exact)
