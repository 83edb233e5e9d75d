"""The part ``projection`` of a teacher: how W is built for the methods that read it."""

from pydantic import Field

from losses.alignment.projection import ProjectionOptions
from orchestrator.config.section import Section


class ProjectionConfig(Section):
    """W, each student token as teacher tokens; read by ``p_kl``, ``h_kl`` and ``gold``."""

    top_k: int = Field(4, ge=1)
    """Teacher tokens that a student token is spread over, at most."""
    reverse: bool = False
    """Also cut the teacher's tokens into student tokens, as the published code does."""

    @property
    def options(self) -> ProjectionOptions:
        """The same for the building code."""
        return ProjectionOptions(top_k=self.top_k, reverse=self.reverse)
