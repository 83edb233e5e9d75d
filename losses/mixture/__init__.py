"""Weights over the terms of the objective: numbers in, weights out, no models and no processes.

Term 0 is cross-entropy, then comes each (teacher, method). ``SCHEMES`` is what may stand at
``mixture.weights`` in the run file.
"""

from collections.abc import Mapping
from types import MappingProxyType

from losses.mixture.observing import Dynamic, GradMag
from losses.mixture.schedule import Schedule, Total
from losses.mixture.scheme import Constant, Scheme
from losses.mixture.shares import Confidence, Select, TeacherCe, TeacherEntropy
from losses.mixture.silent import handed_on
from losses.mixture.teacher_score import Absent, Metric, TeacherScore, Unusable

SCHEMES: Mapping[str, type[Scheme]] = MappingProxyType(
    {
        "constant": Constant,
        "confidence": Confidence,
        "dynamic": Dynamic,
        "teacher_ce": TeacherCe,
        "teacher_entropy": TeacherEntropy,
        "select": Select,
        "gradmag": GradMag,
    }
)
"""Every scheme by its name in the run file."""

__all__ = [
    "SCHEMES",
    "Absent",
    "Confidence",
    "Constant",
    "Dynamic",
    "GradMag",
    "Metric",
    "Schedule",
    "Scheme",
    "Select",
    "TeacherCe",
    "TeacherEntropy",
    "TeacherScore",
    "Total",
    "Unusable",
    "handed_on",
]
