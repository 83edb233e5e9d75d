"""The plan of a run: memory, placement, bytes on the wire, time, disk, and what binds.

Nothing is loaded but tokenizers and text: models are built without weights.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from orchestrator.bundles import student_bundles, teacher_bundles
from orchestrator.cluster import Machine
from orchestrator.config import RunConfig, TeacherConfig
from orchestrator.errors import ResourcesError
from orchestrator.planning.disk import Disk, disk_of
from orchestrator.planning.hardware import Declared, Hardware
from orchestrator.planning.limits import (
    Limit,
    device_limit,
    first_that_fits,
    host_limit,
    student_changes,
    teacher_changes,
)
from orchestrator.planning.processes import (
    CPU,
    Planned,
    ProcessPlan,
    module_parameters,
    plan_student,
    plan_teacher,
)
from orchestrator.planning.timing import StepTime, Worker, step_time
from orchestrator.planning.wire import Wire
from orchestrator.planning.workload import workload
from orchestrator.setup import STUDENT, Setup, set_up

OBJECT_STORE = 0.3
"""Of a machine's memory, what Ray takes for the object store."""


@dataclass(frozen=True)
class Plan:
    """What a run will take.

    Args:
        processes: by the teacher's name, and ``student``.
        wire: by the teacher's name.
        placement: what Ray is asked for, a line a process.
        step: how long one takes.
        num_steps: of training.
        disk: in the run folder.
        in_flight: bytes of signals in the object store at most.
        limits: what there is only so much of, the tightest first.
    """

    processes: Mapping[str, ProcessPlan]
    wire: Mapping[str, Wire]
    placement: tuple[str, ...]
    step: StepTime
    num_steps: int
    disk: Disk
    in_flight: int
    limits: tuple[Limit, ...]

    @property
    def binds(self) -> Limit:
        """The tightest limit."""
        return self.limits[0]

    def require_room(self) -> None:
        """Refuse what cannot fit.

        Raises:
            ResourcesError: names every limit that is broken, and what to change.
        """
        if broken := [str(limit) for limit in self.limits if limit.is_broken]:
            raise ResourcesError("the run does not fit:\n" + "\n".join(f"  {t}" for t in broken))


def plan(config: RunConfig, declared: Declared | None = None, setup: Setup | None = None) -> Plan:
    """What the run would take on this machine, or on the one that is declared.

    Args:
        config: the run.
        declared: GPUs and speeds of machines that are not at hand.
        setup: its tokenizers and documents, if they are read already.

    Raises:
        ConfigError: the run file is wrong, or names what is not there.
        ResourcesError: a GPU is asked for and there is none.
        ValueError: what was declared does not suffice.
    """
    setup = set_up(config) if setup is None else setup
    planned = Planned(setup, workload(config, setup), Hardware.here(declared or Declared()))
    processes, wire = {}, {}
    for teacher in local_teachers(config):
        processes[teacher.name], wire[teacher.name] = plan_teacher(teacher, config, planned)
    student = plan_student(config, planned, wire)
    processes[STUDENT] = student
    disk = disk_of(config, student.sizes, module_parameters(config, setup, student.sizes))
    in_flight = (config.train.prefetch + 2) * sum(w.per_step for w in wire.values())
    limits = [
        *_devices(config, planned, processes, wire),
        Limit("disk of output_dir", disk.total, _free(config.output_dir), DISK_ADVICE),
        Limit("object store", in_flight, _store(planned), STORE_ADVICE),
    ]
    return Plan(
        processes=processes,
        wire=wire,
        placement=_placement(config, planned.machine),
        step=step_time(dict(_workers(processes, planned))),
        num_steps=config.train.max_steps,
        disk=disk,
        in_flight=in_flight,
        limits=tuple(sorted(limits, key=lambda limit: -limit.load)),
    )


DISK_ADVICE = ("lower train.save_total_limit, or choose another output_dir",)

STORE_ADVICE = ("lower train.prefetch, or set train.prefetch_bytes",)


def local_teachers(config: RunConfig) -> list[TeacherConfig]:
    """Those whose model runs here in a process of its own."""
    return [teacher for teacher in config.teacher_actors if teacher.kind in ("hf", "self")]


def _devices(
    config: RunConfig,
    planned: Planned,
    processes: Mapping[str, ProcessPlan],
    wire: Mapping[str, Wire],
) -> Iterator[Limit]:
    """Each GPU process against its GPU, and the host against all that runs on it."""
    host = host_limit(processes, planned.hardware.memory)
    own = processes[STUDENT]
    spare = host.available - host.needed + own.memory.peak  # what others leave to one rank
    yield _advised(host, lambda _: _mend_student(config, planned, wire, spare))
    for teacher in local_teachers(config):
        limit = device_limit(teacher.name, process := processes[teacher.name])
        if process.device != CPU:
            yield _advised(limit, partial(_mend_teacher, teacher, config, planned))
    limit = device_limit(STUDENT, own)
    if own.device != CPU:
        yield _advised(limit, partial(_mend_student, config, planned, wire))


def _advised(limit: Limit, mend: Callable[[int], tuple[str, ...]]) -> Limit:
    if not limit.is_broken:
        return limit
    return Limit(limit.name, limit.needed, limit.available, mend(limit.available))


def _mend_teacher(
    teacher: TeacherConfig, config: RunConfig, planned: Planned, room: int
) -> tuple[str, ...]:
    def peak(changed: TeacherConfig) -> int:
        return plan_teacher(changed, config, planned)[0].memory.peak

    return first_that_fits(teacher_changes(teacher), peak, room)


def _mend_student(
    config: RunConfig, planned: Planned, wire: Mapping[str, Wire], room: int
) -> tuple[str, ...]:
    def peak(changed: RunConfig) -> int:
        return plan_student(changed, planned, wire).memory.peak

    return first_that_fits(student_changes(config), peak, room)


def _workers(
    processes: Mapping[str, ProcessPlan], planned: Planned
) -> Iterator[tuple[str, Worker]]:
    """Those on a CPU share its cores; those with a fraction of a GPU are taken to share one."""
    for name, process in processes.items():
        if process.device == CPU:
            share = process.count * process.threads / planned.hardware.num_cpus
            yield name, Worker(process.seconds, CPU, share)
        else:
            device = "GPU" if process.gpus < 1 else f"GPU of {name}"
            yield name, Worker(process.seconds, device, 1.0)


def _placement(config: RunConfig, machine: Machine) -> tuple[str, ...]:
    bundles = [*teacher_bundles(config, machine), *student_bundles(config, machine)]
    return tuple(str(bundle) for bundle in bundles)


def _store(planned: Planned) -> int:
    return int(OBJECT_STORE * planned.hardware.memory)


def _free(folder: Path) -> int:
    """Bytes free where the folder is or will be."""
    folder = folder.absolute()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(existing).free
