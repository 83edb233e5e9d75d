"""The paper's objective: raw logits, and gradients through everything.

The target depends on the student too, so the KL can also fall because the target moves: an
adapter may make the target the student itself. The method's default has no such way out.

Source: SeDi, AAAI 2026 (article 40637): the pseudo-logits, the entropy loss and the distillation
loss. The paper names no stop-gradient, so there is none.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from losses.prediction import Prediction
from losses.reencoding.pseudo_labels import PseudoLabels
from losses.reencoding.teacher_rows import logit_levels


def published_sums(
    student: Prediction, labels: PseudoLabels, scale: Float[Tensor, "vocab"]
) -> Float[Tensor, "2"]:
    """KL(pseudo-label || student) and the squared difference of entropies, summed over the rows.

    Takes a second pass through the student's head, as log-probabilities do not tell raw logits.
    """
    tensors = labels.tensors(student.device)
    levels = logit_levels(student, tensors.positions - 1)

    def read(logprobs: Float[Tensor, "row vocab"], *cut: Tensor) -> Float[Tensor, "row 2"]:
        level, ids, scores, entropy = cut
        return pseudo_label_losses(logprobs + level.unsqueeze(-1), scale, ids, scores, entropy)

    arrays = (levels, tensors.ids, tensors.scores, tensors.entropy)
    return student.map_rows(read, tensors.positions - 1, *arrays).sum(0)


def pseudo_label_losses(
    logits: Float[Tensor, "row vocab"],
    scale: Float[Tensor, "vocab"],
    ids: Int64[Tensor, "row listed"],
    scores: Float[Tensor, "row listed"],
    entropy: Float[Tensor, "row"],
) -> Float[Tensor, "row 2"]:
    """KL(pseudo-label || student) and the squared difference of entropies (nats), a pair a row.

    Args:
        logits: the student's.
        scale: the adapter's factors.
        ids: tokens that get a score.
        scores: what is added to their scaled logits.
        entropy: the teacher's (nats).
    """
    pseudo = (scale * logits).scatter_add(-1, ids, scores.to(logits))
    target, student = torch.log_softmax(pseudo, -1), torch.log_softmax(logits, -1)
    weights = target.exp()
    kl = (weights * (target - student)).sum(-1)
    gap = -(weights * target).sum(-1) - entropy.to(logits)
    return torch.stack([kl, gap**2], dim=-1)
