"""What two tokenizers rule out after their last tokens, precomputed for pairs of tokens.

A tokenizer never writes some continuations as new tokens, since they would have been one token
with what stands before. After a chunk each side rules out its own; the bias of a side is the
probability of those that the other side leaves open.

Source: Minixhofer et al. 2025, arXiv:2503.20083, appendix F.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int, Int64
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from losses.alignment.vocabulary import Vocabulary

ARRAYS = ("teacher_ids", "student_ids", "teacher_bias", "student_bias")
VOCABULARIES = ("teacher", "student")


@dataclass(frozen=True, eq=False)
class PairBias:
    """Biases of pairs of last tokens; a pair that is not listed has none.

    Args:
        teacher_ids: the pairs' teacher tokens.
        student_ids: the pairs' student tokens.
        teacher_bias: probability of what only the teacher rules out after the pair.
        student_bias: probability of what only the student rules out after it.
        teacher: fingerprint of the teacher's vocabulary.
        student: fingerprint of the student's vocabulary.
    """

    teacher_ids: Int64[np.ndarray, "pair"]
    student_ids: Int64[np.ndarray, "pair"]
    teacher_bias: Float64[np.ndarray, "pair"]
    student_bias: Float64[np.ndarray, "pair"]
    teacher: str
    student: str

    def larger(
        self, teacher_ids: Int[np.ndarray, "chunk"], student_ids: Int[np.ndarray, "chunk"]
    ) -> Float64[np.ndarray, "chunk"]:
        """The larger of the two biases of each pair; 0 for one that is not listed."""
        keys, values = self._sorted
        wanted = _key(teacher_ids, student_ids)
        at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        return np.where(keys[at] == wanted, values[at], 0.0)

    @cached_property
    def _sorted(self) -> tuple[Int64[np.ndarray, "entry"], Float64[np.ndarray, "entry"]]:
        """The pairs as sorted numbers, and their larger biases; the first entry is no pair."""
        keys = np.append(-1, _key(self.teacher_ids, self.student_ids))
        values = np.append(0.0, np.maximum(self.teacher_bias, self.student_bias))
        order = np.argsort(keys)
        return keys[order], values[order]

    def check(self, teacher: Vocabulary, student: Vocabulary) -> None:
        """Raise ValueError if these are the biases of other vocabularies."""
        for side, expected in (("teacher", teacher.fingerprint), ("student", student.fingerprint)):
            if getattr(self, side) != expected:
                raise ValueError(
                    f"bias_file: its {side}'s vocabulary is {getattr(self, side)[:12]}, but this "
                    f"{side}'s is {expected[:12]}; use the biases of this pair of tokenizers"
                )

    def save(self, path: Path) -> None:
        """Write a safetensors file: the four arrays, and the fingerprints as its metadata."""
        # a strided array would be written with its neighbours' bytes
        arrays = {name: np.ascontiguousarray(getattr(self, name)) for name in ARRAYS}
        save_file(arrays, path, metadata={name: getattr(self, name) for name in VOCABULARIES})


@lru_cache(maxsize=8)
def load_pair_bias(path: str) -> PairBias:
    """What ``PairBias.save`` wrote; read once a process.

    Raises:
        ValueError: there is no such file, it is damaged, or it lacks an array or a fingerprint.
    """
    if not Path(path).is_file():
        raise ValueError(
            f"bias_file: there is no file {path}; give the absolute path of a file that "
            "PairBias.save wrote"
        )
    try:
        with safe_open(path, "np") as file:
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            found |= {name: text for name, text in (file.metadata() or {}).items()}
    except SafetensorError as error:
        raise ValueError(
            f"bias_file: {path} is no whole safetensors file ({error}); expected one that "
            "PairBias.save wrote, make it anew"
        ) from error
    if missing := [name for name in ARRAYS + VOCABULARIES if name not in found]:
        raise ValueError(f"bias_file: {path} lacks {', '.join(missing)}; make it anew")
    return PairBias(**{name: found[name] for name in ARRAYS + VOCABULARIES})


def _key(
    teacher_ids: Int[np.ndarray, "pair"], student_ids: Int[np.ndarray, "pair"]
) -> Int64[np.ndarray, "pair"]:
    """One number a pair; ids are below 2 ** 31."""
    keys: Int64[np.ndarray, "pair"] = (teacher_ids.astype(np.int64) << 31) | student_ids
    return keys
