"""The part ``checks`` of the run file: what must hold before the first step."""

from typing import Annotated

from pydantic import AfterValidator, Field

from orchestrator.config.section import Expected, Section

DOCUMENTS_RULE = "a whole number, 0 or at least 2"


def _not_one(documents: int) -> int:
    if documents < 0 or documents == 1:  # the order of one document cannot be changed
        raise ValueError(f"{documents} is not possible; expected {DOCUMENTS_RULE}")
    return documents


class ChecksConfig(Section):
    """Checks on the loaded models before the first step; docs/gates.md explains them."""

    documents: Annotated[int, AfterValidator(_not_one), Expected(DOCUMENTS_RULE)] = 4
    """Training documents that the checks read, of different lengths; 0 leaves all checks out."""
    identity: bool = True
    """Every loss that should be zero for a teacher equal to the student is zero."""
    coverage: bool = True
    """Enough of the text lies in chunks that the student's and each teacher's tokens share."""
    likelihood: bool = True
    """Every teacher predicts the text better than a guess among all of its tokens."""
    chunked: bool = True
    """Losses that are computed a few rows at a time equal those of all rows at once."""
    order: bool = True
    """Losses of a batch do not depend on its order nor on how it is split."""
    min_coverage: float = Field(0.5, ge=0, le=1)
    """Least share of the scored bytes that passes ``coverage``."""
    tolerance: float | None = Field(None, gt=0)
    """Most nats a byte by which a loss may be off; null is 1e-5 in float32, and in bfloat16 0.005
    for ``identity``, 0.01 for ``chunked`` and 0.05 for ``order``."""
