"""What Ray sets aside for each process, and the cluster that all of them run on."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from orchestrator.config.problems import Problem, Problems
from orchestrator.config.section import (
    DEVICE_MAP,
    Device,
    Expected,
    Section,
    refuse_keys,
)

GPUS_RULE = "a fraction up to 1, or a whole number"

OWNED_RESOURCES = {
    "CPU": "use resources.cpus",
    "GPU": "use resources.gpus",
    "memory": "Ray's memory is not reserved here",
    "object_store_memory": "Ray's memory is not reserved here",
}


def _whole_above_one(gpus: float | None) -> float | None:
    if gpus is not None and (gpus < 0 or (gpus > 1 and gpus != int(gpus))):
        raise ValueError(f"{gpus:g} GPUs are not possible; expected {GPUS_RULE}")
    return gpus


Labels = Annotated[dict[str, str], Expected("a mapping of labels to values")]

Custom = Annotated[
    dict[str, Annotated[float, Field(gt=0)]],
    AfterValidator(refuse_keys(OWNED_RESOURCES)),
    Expected("a mapping of Ray resources to amounts above 0"),
]


class Resources(Section):
    """What Ray sets aside for one process."""

    gpus: Annotated[float, AfterValidator(_whole_above_one), Expected(GPUS_RULE)] | None = None
    """GPUs of the process; a fraction shares one GPU, above 1 (teachers only) one model lies on
    several, as ``model_options.device_map`` says. null is a fair share: one GPU each, a fraction
    of one where there are more processes than GPUs, 0 without CUDA."""
    cpus: float = Field(1.0, ge=0)
    """CPUs that Ray reserves for the process; it says nothing about threads."""
    labels: Labels = Field(default_factory=dict)
    """Labels that the node must have, in Ray's syntax: ``value``, ``"!value"``, ``in(a, b)``."""
    custom: Custom = Field(default_factory=dict)
    """Amounts of further Ray resources that the cluster's nodes were started with."""


class TeacherResources(Resources):
    """What Ray sets aside for each process of a teacher."""

    replicas: int = Field(1, ge=1)
    """Processes that answer as this one teacher and share its documents."""


class ClusterConfig(Section):
    """Where the processes run."""

    address: str | None = None
    """Ray cluster to join, ``host:port`` or ``auto``; null is ``RAY_ADDRESS``, and without it this
    machine alone."""
    placement: Literal["pack", "spread"] = "pack"
    """Processes on as few nodes as possible, or on as many."""
    offload: bool = False
    """For one GPU that cannot hold all models at once: teachers and student take turns on it, the
    others wait in main memory. ``train.prefetch`` is then the number of steps of one turn."""


def without_replicas(entry: object) -> object:
    """Refuse replicas of a student.

    Raises:
        Problems: there is such a key.
    """
    if isinstance(entry, Mapping) and "replicas" in entry:
        text = "only teachers have replicas; leave it out, or raise student.num_ranks"
        raise Problems([Problem(("replicas",), text)])
    return entry


def check_device(device: Device, resources: Resources) -> None:
    """Refuse a device that contradicts the GPUs asked for.

    Raises:
        ValueError: a CPU process with GPUs, or a CUDA process without.
    """
    if device == "cpu" and resources.gpus:
        raise ValueError(
            f"device is cpu but resources.gpus is {resources.gpus:g}; expected resources.gpus "
            "null or 0, or another device"
        )
    if device == "cuda" and resources.gpus == 0:
        raise ValueError(
            "device is cuda but resources.gpus is 0; expected resources.gpus null or above 0, "
            "or another device"
        )


def check_rank(resources: Resources) -> None:
    """Refuse a rank of the student on several GPUs.

    Raises:
        ValueError: it asks for more than one.
    """
    if resources.gpus is not None and resources.gpus > 1:
        raise ValueError(
            f"resources.gpus is {resources.gpus:g}, but a rank trains on one GPU; expected at most "
            "1, and num_ranks for more"
        )


def device_map_problems(
    resources: Resources, model_options: Mapping[str, Any]
) -> Iterator[Problem]:
    """A model on several GPUs without a map of its layers, or the other way round."""
    several = resources.gpus is not None and resources.gpus > 1
    mapped = DEVICE_MAP in model_options
    if several and not mapped:
        yield Problem(
            ("resources", "gpus"),
            f"{resources.gpus:g} without a map of the model's layers to them; expected "
            'model_options.device_map, such as "auto", or at most 1',
        )
    if mapped and not several:
        yield Problem(
            ("model_options", DEVICE_MAP),
            "it lays a model on several GPUs, but resources.gpus is not above 1; expected "
            "resources.gpus 2 or more, or the key device in its place",
        )
