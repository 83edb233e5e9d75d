"""Both models' rows of one document, each in the other's space, by attention or one to one."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from losses.dual_space.attention import CrossAttention, Seen, Side
from losses.dual_space.projectors import Projectors
from losses.dual_space.rows import SeenRows, paired_rows, seen_rows
from losses.dual_space.shared_logits import SharedLogits
from losses.dual_space.spaces import most_likely, rows_in_memory
from losses.dual_space.states import EmbeddedStates, used_tokens
from losses.prediction import Head, Prediction
from losses.signals import HiddenStates, pack, unpack


@dataclass(frozen=True)
class Projected:
    """Rows of both models, each in the other's space.

    Args:
        positions: the student's rows.
        theirs: the teacher's states there, in the student's space.
        labels: what the projected teacher should say; -1 for nothing.
        states: the teacher's states that the student is compared with.
        ours: the student's states for them, in the teacher's space.
    """

    positions: Int64[Tensor, "row"]
    theirs: Float[Tensor, "row student_width"]
    labels: Int64[Tensor, "row"]
    states: Float[Tensor, "teacher_row teacher_width"]
    ours: Float[Tensor, "teacher_row teacher_width"]


def attended(student: Prediction, states: EmbeddedStates, attention: CrossAttention) -> Projected:
    """Version 1: every row sees rows of the other model; the label is the text's own token."""
    positions, device = student.scored_positions - 1, student.device
    rows = attention_rows(
        pack(positions), student.tokens.byte_ends, states, everything=attention.knows_answer
    )
    seen = Seen(*(torch.from_numpy(one).to(device) for one in rows))
    hidden = unpack(states.hidden).to(device)
    ours = Side(
        student.hidden[positions], student.embeddings(positions), student.embeddings(positions + 1)
    )
    mixed = attention(ours, _teacher_side(states, hidden), seen)
    kept = positions[seen.by_student.any(-1)]
    return Projected(kept, mixed[0], _own(student, kept), hidden[seen.by_teacher.any(-1)], mixed[1])


def attention_rows(
    positions: Int64[np.ndarray, "row"],
    byte_ends: Int64[np.ndarray, "token"],
    states: HiddenStates,
    *,
    everything: bool,
) -> SeenRows:
    """Which rows see which, of the student's rows at these positions."""
    seen = seen_rows(byte_ends, positions.astype(np.int64), states)
    return seen.everything if everything else seen


def paired(
    student: Prediction, states: HiddenStates, head: Head, spaces: Projectors | SharedLogits
) -> Projected:
    """Rows one to one; the label is the text's own token, or the teacher's most likely one."""
    device = student.device
    found = paired_rows(student.tokens, pack(student.scored), states)
    positions, rows = (torch.from_numpy(one).to(device) for one in found)
    hidden = unpack(states.hidden).to(device)[rows]
    if isinstance(spaces, Projectors):
        theirs, ours = spaces(student.hidden[positions], hidden)
        return Projected(positions, theirs, _own(student, positions), hidden, ours)
    theirs, ours = spaces(student, positions, head, hidden)
    chosen = most_likely(head, hidden, rows_in_memory(student, head))
    labels = spaces.student_of.to(device)[chosen]
    return Projected(positions, theirs, labels, hidden, ours)


def _teacher_side(states: EmbeddedStates, hidden: Float[Tensor, "row teacher_width"]) -> Side:
    used = used_tokens(states)
    embeddings = unpack(states.embeddings).to(hidden.device)
    places = (np.searchsorted(used, states.positions + shift) for shift in (0, 1))
    read, target = (embeddings[torch.from_numpy(place).to(hidden.device)] for place in places)
    finer = torch.promote_types(hidden.dtype, torch.float32)
    return Side(hidden.to(finer), read.to(finer), target.to(finer))


def _own(student: Prediction, positions: Int64[Tensor, "row"]) -> Int64[Tensor, "row"]:
    return torch.from_numpy(student.tokens.ids).to(student.device)[positions + 1]
