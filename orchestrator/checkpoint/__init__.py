"""Checkpoints: loadable models with all that exact resuming needs; see ``contents``."""

from orchestrator.checkpoint.contents import STATE, complete_checkpoints, flaw_of
from orchestrator.checkpoint.position import Inputs, Position, Tally, describe_documents
from orchestrator.checkpoint.read import checkpoint_to_resume, clear_the_way
from orchestrator.checkpoint.retention import Retention
from orchestrator.checkpoint.write import require_space, save_checkpoint, save_model

__all__ = [
    "STATE",
    "Inputs",
    "Position",
    "Retention",
    "Tally",
    "checkpoint_to_resume",
    "clear_the_way",
    "complete_checkpoints",
    "describe_documents",
    "flaw_of",
    "require_space",
    "save_checkpoint",
    "save_model",
]
