"""The part ``refresh`` of a teacher of kind ``self``: it follows the student that is trained."""

from pydantic import Field

from orchestrator.config.section import Section


class RefreshConfig(Section):
    """The teacher is a running mean (EMA) of the student's weights, renewed in versions."""

    every: int = Field(10, ge=1)
    """Steps between two versions of the teacher; in between its weights stay the same."""
    decay: float = Field(0.999, ge=0, lt=1)
    """After each step the mean keeps this share of itself; 0 is the student itself."""
