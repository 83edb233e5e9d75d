"""Where each process of a run lies: one placement group, a bundle for each process.

Ray would wait for ever for what no node offers. Here every bundle is held against the nodes first,
and the wait for a busy cluster ends with the name of what is missing.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray
from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    remove_placement_group,
)
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from orchestrator.bundles import (
    Bundle,
    Node,
    amounts_text,
    check_room,
    offers,
    student_bundles,
    teacher_bundles,
)
from orchestrator.cluster import Machine
from orchestrator.config import RunConfig
from orchestrator.errors import ConfigError, ResourcesError

PATIENCE_S = 30
"""Seconds in which a busy cluster must have become free enough."""


class Placement:
    """The options with which Ray starts each process in its bundle."""

    def __init__(self, bundles: Sequence[Bundle], group: PlacementGroup | None) -> None:
        self._bundles = {bundle.name: bundle for bundle in bundles}
        reserved = [bundle.name for bundle in bundles if bundle.amounts]
        self._index = {name: index for index, name in enumerate(reserved)}
        self._group = group

    def teacher(self, name: str, replica: int = 0) -> dict[str, Any]:
        """Options of the actor of a teacher's replica."""
        return self._options(f"{name}/{replica}")

    def rank(self, rank: int) -> dict[str, Any]:
        """Options of the actor of a rank of the student."""
        return self._options(f"student/{rank}")

    def _options(self, name: str) -> dict[str, Any]:
        bundle = self._bundles[name]
        custom = {k: n for k, n in bundle.amounts.items() if k not in ("CPU", "GPU")}
        options: dict[str, Any] = {
            "num_cpus": bundle.amounts.get("CPU", 0.0),
            "num_gpus": bundle.amounts.get("GPU", 0.0),
            "resources": custom,
        }
        if self._group is not None and name in self._index:
            strategy = PlacementGroupSchedulingStrategy(self._group, self._index[name])
            return options | {"scheduling_strategy": strategy}
        return options | {"label_selector": dict(bundle.labels)}


@contextmanager
def placed(
    config: RunConfig, machine: Machine, *, teachers: bool = True, students: bool = True
) -> Iterator[Placement]:
    """Reserve what the processes of a run ask for, all of it or nothing, until the end.

    Args:
        config: the run file.
        machine: what the cluster has.
        teachers: with a bundle for each replica of each teacher that has a process.
        students: with a bundle for each rank.

    Raises:
        ResourcesError: the cluster cannot give it; tells which process asks for what is missing.
        ConfigError: a label is not one that Ray knows how to read.
    """
    bundles = [
        *(teacher_bundles(config, machine) if teachers else ()),
        *(student_bundles(config, machine) if students else ()),
    ]
    reserved = [bundle for bundle in bundles if bundle.amounts]
    check_room(bundles, nodes())
    if not reserved:  # processes without a claim go anywhere
        yield Placement(bundles, None)
        return
    group = _group(reserved, config.resources.placement)
    try:
        if not group.wait(PATIENCE_S):
            raise ResourcesError(_too_busy(reserved))
        yield Placement(bundles, group)
    finally:
        remove_placement_group(group)


def nodes() -> list[Node]:
    """The nodes that are alive."""
    return [
        Node(node["NodeManagerAddress"], node["Resources"], node.get("Labels", {}))
        for node in ray.nodes()
        if node["Alive"]
    ]


def _group(bundles: Sequence[Bundle], strategy: str) -> PlacementGroup:
    try:
        group: PlacementGroup = placement_group(
            [dict(bundle.amounts) for bundle in bundles],
            strategy=strategy.upper(),
            bundle_label_selector=[dict(bundle.labels) for bundle in bundles],
        )
    except ValueError as error:
        raise ConfigError(f"resources.labels: {error}") from error
    return group


def _too_busy(bundles: Sequence[Bundle]) -> str:
    kinds = sorted({kind for bundle in bundles for kind in bundle.amounts})
    available = ray.available_resources()
    free = amounts_text({kind: available.get(kind, 0.0) for kind in kinds})
    return (
        f"the processes could not be placed within {PATIENCE_S} s: "
        f"{'; '.join(map(str, bundles))}. Nodes: {offers(bundles, nodes())}. Free in all: {free}. "
        "Either other programs hold the rest, or the processes do not fit on the nodes together; "
        "lower their resources, or wait until there is more"
    )
