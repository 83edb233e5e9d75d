"""The plan of a run: memory, placement, bytes on the wire, time, disk, and what binds.

Nothing is loaded but tokenizers and text: models are built without weights.
"""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from orchestrator.bundles import student_bundles, teacher_bundles
from orchestrator.cluster import Machine
from orchestrator.config import RunConfig
from orchestrator.errors import ResourcesError
from orchestrator.planning.advice import Advisor
from orchestrator.planning.disk import Disk, disk_of
from orchestrator.planning.gpus import Layout, gpu_limits, lay_out
from orchestrator.planning.hardware import Declared, Hardware, cores
from orchestrator.planning.limits import Limit, host_limit
from orchestrator.planning.processes import CPU, Planned, ProcessPlan
from orchestrator.planning.student_process import module_parameters, plan_student
from orchestrator.planning.teacher_process import plan_teacher, plan_wire
from orchestrator.planning.timing import StepTime, Worker, step_time
from orchestrator.planning.wire import Wire
from orchestrator.planning.workload import workload
from orchestrator.setup import STUDENT, Setup, set_up


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
    hardware = Hardware.here(declared or Declared())
    planned = Planned(setup, workload(config, setup), hardware)
    wire = {teacher.name: plan_wire(teacher, config, planned) for teacher in config.teachers}
    processes = {
        teacher.name: plan_teacher(teacher, config, planned, wire[teacher.name])
        for teacher in config.teacher_actors
    }
    student = processes[STUDENT] = plan_student(config, planned, wire)
    layout = lay_out(processes, hardware.num_gpus, in_turns=config.resources.offload)
    disk = _disk(config, setup, student)
    in_flight = bytes_in_flight(config, sum(w.largest_step for w in wire.values() if w.per_step))
    limits = [
        *_memory(Advisor(config, planned, wire, processes), layout, in_flight),
        Limit("disk of output_dir", disk.total, _free(config.output_dir), DISK_ADVICE),
        *_recorded(config, wire),
        Limit("object store", in_flight, hardware.store, STORE_ADVICE),
    ]
    return Plan(
        processes=processes,
        wire=wire,
        placement=_placement(config, planned.machine),
        step=step_time(dict(_workers(processes, layout, hardware))),
        num_steps=config.train.max_steps,
        disk=disk,
        in_flight=in_flight,
        limits=tuple(sorted(limits, key=lambda limit: -limit.load)),
    )


DISK_ADVICE = ("lower train.save_total_limit, or choose another output_dir",)

STORE_ADVICE = ("lower train.prefetch, or set train.prefetch_bytes",)


def bytes_in_flight(config: RunConfig, a_step: int) -> int:
    """Bytes of signals that wait in the object store at most.

    Beside the steps ahead there are the one that the student trains on and the one before, whose
    references the loop still holds. In turns the steps of one turn are asked for when none waits.

    Args:
        config: the run.
        a_step: bytes of the largest step, of all teachers.
    """
    train = config.train
    if config.resources.offload:
        return (train.prefetch + 1) * a_step
    ahead = train.prefetch * a_step
    return 2 * a_step + (
        ahead if train.prefetch_bytes is None else min(ahead, train.prefetch_bytes)
    )


def _memory(advisor: Advisor, layout: Layout, in_flight: int) -> Iterator[Limit]:
    """Every GPU against what its processes take together, and the host."""
    hardware, processes = advisor.planned.hardware, advisor.processes
    if layout.missing:
        yield Limit(
            "the GPUs' number",
            round(hardware.num_gpus + layout.missing),
            round(hardware.num_gpus),
            ("lower resources.gpus, replicas or student.num_ranks, or take more GPUs",),
            unit="GPUs",
        )
    for limit, names in gpu_limits(layout, processes, hardware.gpu_memory):
        yield limit.advised(partial(advisor.on_gpu, limit, names, in_turns=layout.in_turns))
    host = host_limit(processes, in_flight, hardware.memory)
    yield host.advised(partial(advisor.on_host, host))


def _recorded(config: RunConfig, wire: Mapping[str, Wire]) -> Iterator[Limit]:
    for teacher in config.teachers:
        if teacher.record is not None:
            name, folder = f"disk of teachers.{teacher.name}.record", Path(teacher.record)
            yield Limit(
                name, wire[teacher.name].stored, _free(folder.expanduser()), ("choose another",)
            )


def _disk(config: RunConfig, setup: Setup, student: ProcessPlan) -> Disk:
    if student.sizes is None:
        raise ValueError("the student has no model")
    return disk_of(config, student.sizes, module_parameters(config, setup, student.sizes))


def _workers(
    processes: Mapping[str, ProcessPlan], layout: Layout, hardware: Hardware
) -> Iterator[tuple[str, Worker]]:
    """Those on a CPU share its cores, those on a GPU its time.

    How long a server takes is not known here.
    """
    for name, process in processes.items():
        if not process.seconds:
            continue
        if process.device == CPU:
            share = process.count * cores(process.threads) / cores(hardware.num_cpus)
            yield name, Worker(process.seconds, {CPU: share})
        else:
            at_once = max(1, int(process.gpus))  # layers on several work one after the other
            shares = {gpu: count / at_once for gpu, count in layout.of(name).items()}
            yield name, Worker(process.seconds, shares)


def _placement(config: RunConfig, machine: Machine) -> tuple[str, ...]:
    bundles = [*teacher_bundles(config, machine), *student_bundles(config, machine)]
    return tuple(str(bundle) for bundle in bundles)


def _free(folder: Path) -> int:
    """Bytes free where the folder is or will be."""
    folder = folder.absolute()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(existing).free
