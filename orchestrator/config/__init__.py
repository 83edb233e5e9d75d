"""The run file: its schema, how it is read with overrides, and what is said when it is wrong."""

from orchestrator.config.checks import ChecksConfig
from orchestrator.config.experiment import (
    ArmConfig,
    ArmTeacherConfig,
    ExperimentConfig,
    load_experiment,
)
from orchestrator.config.faults import FaultsConfig
from orchestrator.config.load import load_run, parse_run, to_yaml
from orchestrator.config.method import MethodConfig
from orchestrator.config.mixture import MixtureConfig, RoutingConfig
from orchestrator.config.resources import ClusterConfig, Resources, TeacherResources
from orchestrator.config.run import RunConfig
from orchestrator.config.student import StudentConfig
from orchestrator.config.teacher import TeacherConfig
from orchestrator.config.training import (
    CeOnlyConfig,
    CompareConfig,
    DataConfig,
    TrainConfig,
)

__all__ = [
    "ArmConfig",
    "ArmTeacherConfig",
    "CeOnlyConfig",
    "ChecksConfig",
    "ClusterConfig",
    "CompareConfig",
    "DataConfig",
    "ExperimentConfig",
    "FaultsConfig",
    "MethodConfig",
    "MixtureConfig",
    "Resources",
    "RoutingConfig",
    "RunConfig",
    "StudentConfig",
    "TeacherConfig",
    "TeacherResources",
    "TrainConfig",
    "load_experiment",
    "load_run",
    "parse_run",
    "to_yaml",
]
