"""What each process of a run asks for, held against what the nodes of a cluster have."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.cluster import Machine, fair_gpus
from orchestrator.config import Resources, RunConfig
from orchestrator.errors import ResourcesError

OPERATORS = ("!", "in(")
"""How a label selector begins that is more than a value."""


@dataclass(frozen=True)
class Bundle:
    """What one process asks for.

    Args:
        name: ``gemma/0`` for a teacher's first replica, ``student/0`` for the first rank.
        amounts: by Ray's names of resources, none of them 0.
        labels: what the node's labels must be.
    """

    name: str
    amounts: Mapping[str, float]
    labels: Mapping[str, str]

    @classmethod
    def of(cls, name: str, resources: Resources, gpus: float) -> "Bundle":
        """The bundle of a process that gets so many GPUs."""
        amounts = {"CPU": resources.cpus, "GPU": gpus, **resources.custom}
        kept = {kind: amount for kind, amount in amounts.items() if amount}
        return cls(name, kept, resources.labels)

    def fits(self, node: "Node") -> bool:
        """True if the node, with nothing else on it, can hold this process.

        Selectors that are more than a value are left to Ray.
        """
        labels = {k: v for k, v in self.labels.items() if not v.startswith(OPERATORS)}
        enough = all(node.offers.get(kind, 0.0) >= n for kind, n in self.amounts.items())
        return enough and labels.items() <= node.labels.items()

    def __str__(self) -> str:
        labels = [f"label {key}: {value}" for key, value in self.labels.items()]
        return f"{self.name} asks for {', '.join([amounts_text(self.amounts), *labels])}"


@dataclass(frozen=True)
class Node:
    """What one node of the cluster has in all."""

    name: str
    offers: Mapping[str, float]
    labels: Mapping[str, str]


def teacher_bundles(config: RunConfig, machine: Machine) -> list[Bundle]:
    """One for each replica of each teacher with a process of its own, in the run file's order."""
    return [
        Bundle.of(
            f"{teacher.name}/{replica}",
            teacher.resources,
            fair_gpus(teacher.resources, teacher.device, config, machine),
        )
        for teacher in config.teacher_actors
        for replica in range(teacher.resources.replicas)
    ]


def student_bundles(config: RunConfig, machine: Machine) -> list[Bundle]:
    """One for each rank."""
    student = config.student
    gpus = fair_gpus(student.resources, student.device, config, machine)
    return [
        Bundle.of(f"student/{rank}", student.resources, gpus) for rank in range(student.num_ranks)
    ]


def check_room(bundles: Sequence[Bundle], nodes: Sequence[Node]) -> None:
    """Refuse what these nodes cannot hold even if nothing else runs on them.

    Raises:
        ResourcesError: a process fits on no node, or all of them ask for more than there is.
    """
    for bundle in bundles:
        if not any(bundle.fits(node) for node in nodes):
            raise ResourcesError(
                f"{bundle}, but no node offers that: {offers([bundle], nodes)}; lower its "
                "resources, or add a node that has them"
            )
    for kind in sorted({kind for bundle in bundles for kind in bundle.amounts}):
        asked = sum(bundle.amounts.get(kind, 0.0) for bundle in bundles)
        offered = sum(node.offers.get(kind, 0.0) for node in nodes)
        if asked > offered + 1e-4:  # Ray counts in units of 1e-4
            raise ResourcesError(
                f"the processes ask for {kind} {asked:g} in all, but the nodes offer {offered:g}: "
                f"{'; '.join(str(b) for b in bundles if kind in b.amounts)}; lower their "
                "resources, or add a node"
            )


def offers(bundles: Sequence[Bundle], nodes: Sequence[Node]) -> str:
    """What each node has of what is asked for."""
    kinds = sorted({kind for bundle in bundles for kind in bundle.amounts})
    keys = sorted({key for bundle in bundles for key in bundle.labels})
    texts = []
    for node in nodes:
        amounts = amounts_text({kind: node.offers.get(kind, 0.0) for kind in kinds})
        labels = [f"label {key}: {node.labels.get(key, 'none')}" for key in keys]
        texts.append(f"{node.name} has {', '.join([amounts, *labels])}")
    return "; ".join(texts)


def amounts_text(amounts: Mapping[str, float]) -> str:
    """Resources in words.

    >>> amounts_text({"CPU": 1.0, "GPU": 0.5})
    'CPU 1, GPU 0.5'
    """
    return ", ".join(f"{kind} {amount:g}" for kind, amount in amounts.items()) or "nothing"
