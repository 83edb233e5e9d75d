"""The run file: its schema, how it is read with overrides, and what is said when it is wrong."""

from orchestrator.config.checks import ChecksConfig
from orchestrator.config.load import load_run, parse_run, to_yaml
from orchestrator.config.method import MethodConfig
from orchestrator.config.run import RunConfig
from orchestrator.config.section import Resources
from orchestrator.config.student import StudentConfig
from orchestrator.config.teacher import TeacherConfig
from orchestrator.config.training import (
    CeOnlyConfig,
    CompareConfig,
    DataConfig,
    MixtureConfig,
    TrainConfig,
)

__all__ = [
    "CeOnlyConfig",
    "ChecksConfig",
    "CompareConfig",
    "DataConfig",
    "MethodConfig",
    "MixtureConfig",
    "Resources",
    "RunConfig",
    "StudentConfig",
    "TeacherConfig",
    "TrainConfig",
    "load_run",
    "parse_run",
    "to_yaml",
]
