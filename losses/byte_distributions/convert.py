"""From a teacher's next-token distributions to the signal of next-byte distributions."""

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float64
from pydantic import ConfigDict, NonNegativeFloat, PositiveInt
from pydantic.dataclasses import dataclass
from torch import Tensor

from losses.byte_distributions.beam import beam_masses
from losses.byte_distributions.branches import branch_masses
from losses.byte_distributions.floor import floored
from losses.byte_distributions.paths import (
    byte_positions,
    eot_masses,
    eot_rows,
    on_path_masses,
    one_path_masses,
)
from losses.continuations import Continuations
from losses.document import Document
from losses.prediction import Prediction
from losses.signals import ByteDistributions, TokenByteDistributions, pack


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Converter:
    """How token distributions become byte distributions.

    Args:
        name: ``one_path`` reads each byte from its own token, renormalised: cheapest, too sure;
            ``eot`` the same with the end of the token as a symbol: exact for the tokens;
            ``on_path`` adds longer tokens that begin where one of the document's begins;
            ``branches`` adds histories that leave the document's tokens for one other token, in
            one extra pass; ``beam`` follows the likeliest segmentations byte by byte (published,
            slow).
        epsilon: smallest share of a prefix's mass for which ``branches`` opens a branch and
            ``beam`` keeps a history.
        beam: histories that ``beam`` keeps.
    """

    name: Literal["one_path", "eot", "on_path", "branches", "beam"] = "branches"
    epsilon: NonNegativeFloat = 0.01
    beam: PositiveInt = 10

    @property
    def needs_continuations(self) -> bool:
        """True if the model is asked about other tokens than the document's."""
        return self.name in ("branches", "beam")


def convert(
    teacher: Prediction, document: Document, converter: Converter
) -> ByteDistributions | TokenByteDistributions:
    """The teacher's byte distributions of a document, without gradients.

    Rows where the teacher has no mass at all are left out; ``num_lost`` counts those that give the
    document's own byte none.

    Returns:
        ``TokenByteDistributions`` for ``eot``, else ``ByteDistributions``.

    Raises:
        ValueError: the converter asks the model, and only its prediction is there.
    """
    with torch.no_grad():
        if converter.name == "eot":
            return _chain(teacher)
        masses = _masses(teacher, document, converter)
    scored = teacher.scored.cpu().numpy()
    positions = byte_positions(teacher.tokens, scored, teacher.vocabulary)
    known = (masses.sum(-1) > 0).cpu().numpy()
    rows = torch.from_numpy(np.flatnonzero(known)).to(masses.device)
    return ByteDistributions(
        positions=positions[known].astype(np.int32),
        logprobs=pack(floored(masses[rows]).half()),
    )


def _chain(teacher: Prediction) -> TokenByteDistributions:
    rows = eot_rows(teacher.tokens, teacher.scored.cpu().numpy(), teacher.vocabulary)
    masses = eot_masses(teacher)
    known = (masses.sum(-1) > 0).cpu().numpy()
    return TokenByteDistributions(
        positions=rows.positions[known].astype(np.int32),
        closes=rows.closes[known],
        logprobs=pack(floored(masses)[torch.from_numpy(known).to(masses.device)].half()),
    )


def _masses(
    teacher: Prediction, document: Document, converter: Converter
) -> Float64[Tensor, "row 257"]:
    if converter.name == "one_path":
        return one_path_masses(teacher)
    if converter.name == "on_path":
        return on_path_masses(teacher)
    model = _model(teacher, document, converter)
    if converter.name == "branches":
        return branch_masses(teacher, model, converter.epsilon)
    return beam_masses(teacher, model, converter.beam, converter.epsilon)


def _model(teacher: Prediction, document: Document, converter: Converter) -> Continuations:
    if teacher.continuations is None:
        raise ValueError(
            f'converter "{converter.name}" asks the teacher about other tokens than those of '
            f"document {document.name}, but only its prediction is there; choose the converter "
            "on_path, one_path or eot"
        )
    return teacher.continuations
