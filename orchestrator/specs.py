"""From the run file to what each process is built from."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from losses.alignment.projection import Projection
from losses.alignment.vocabulary import Vocabulary
from losses.mixture import Constant, Schedule, Total
from losses.mixture.schedule import total_of
from orchestrator.cluster import Machine, fair_gpus
from orchestrator.config import RunConfig, StudentConfig, TeacherConfig
from orchestrator.projections import reads_projection
from orchestrator.setup import Setup
from orchestrator.sources import speaking_source, student_source
from orchestrator.student.adapters import LoraOptions
from orchestrator.student.engine import EngineOptions
from orchestrator.student.objective import Objective
from orchestrator.student.spec import StudentSpec, TermSpec
from orchestrator.student.stages import Stage
from orchestrator.student_tokenizer import new_tokenizer
from teachers.actor import TeacherSpec
from teachers.server.source import ServerSource


def teacher_specs(config: RunConfig, machine: Machine) -> list[TeacherSpec]:
    """One spec a teacher with a process of its own, in the run file's order."""
    return [_teacher_spec(teacher, config, machine) for teacher in config.teacher_actors]


def _teacher_spec(teacher: TeacherConfig, config: RunConfig, machine: Machine) -> TeacherSpec:
    on_gpu = fair_gpus(teacher.resources, teacher.device, config, machine) > 0
    return TeacherSpec(
        name=teacher.name,
        source=speaking_source(teacher, config.student),
        methods=tuple(entry.method for entry in teacher.methods),
        device="cuda" if on_gpu else "cpu",
        threads=teacher.threads or 1,
        token_budget=teacher.token_budget,
        start_token=teacher.start_token,
        asks=config.mixture.weights.asks,
        follows=teacher.refresh is not None,
        patience_s=patience_of(config),
    )


def with_longest(spec: TeacherSpec, setup: Setup) -> TeacherSpec:
    """The spec; that of a server tells its longest document, which may be too long for it."""
    if not isinstance(spec.source, ServerSource):
        return spec
    longest = max(split.longest[spec.name] for split in (setup.train, setup.held_out))
    return replace(spec, source=replace(spec.source, longest=longest))


def patience_of(config: RunConfig) -> float:
    """Seconds after which a process says where it hangs, before the driver gives it up."""
    return 0.9 * config.train.timeout_s


def student_spec(
    config: RunConfig,
    machine: Machine,
    vocabularies: Mapping[str, Vocabulary],
    projections: Mapping[str, Projection] = MappingProxyType({}),
    widths: Mapping[str, int | None] = MappingProxyType({}),
) -> StudentSpec:
    """The spec of every rank; vocabularies, W and widths of hidden states are by teacher's name."""
    student, train = config.student, config.train
    terms = [
        term
        for teacher in config.teachers
        for term in _terms(
            config,
            teacher,
            vocabularies[teacher.name],
            projections.get(teacher.name),
            widths.get(teacher.name),
        )
    ]
    on_gpu = fair_gpus(student.resources, student.device, config, machine) > 0
    shared = [_teacher_spec(t, config, machine) for t in config.teachers if t.share_weights]
    return StudentSpec(
        source=student_source(student),
        keep=student.keep_layers,
        drop=student.drop_layers,
        device="cuda" if on_gpu else "cpu",
        threads=student_threads(config, machine),
        num_ranks=student.num_ranks,
        gradient_checkpointing=student.gradient_checkpointing,
        seed=train.seed,
        objective=Objective(
            weights=(config.mixture.ce_weight, *_weights(config, terms)),
            normalize=config.mixture.normalize,
            scheme=config.mixture.weights if terms else Constant(),
        ),
        engine=engine_options(config),
        terms=tuple(terms),
        ensemble=config.mixture.ensemble,
        timeout_s=train.timeout_s,
        patience_s=patience_of(config),
        lora=_lora(student),
        new_tokenizer=new_tokenizer(student),
        shared=next(iter(shared), None),
    )


def _lora(student: StudentConfig) -> LoraOptions | None:
    lora = student.lora
    if lora is None:
        return None
    return LoraOptions(lora.rank, lora.alpha, lora.dropout, lora.target_modules)


def _weights(config: RunConfig, terms: Sequence[TermSpec]) -> list[float | Schedule | Total]:
    """One a term; an ensemble's is the sum of its members'."""
    weights = [term.weight for term in terms]
    return [total_of(weights)] if weights and config.mixture.ensemble else list(weights)


def _terms(
    config: RunConfig,
    teacher: TeacherConfig,
    vocabulary: Vocabulary,
    projection: Projection | None,
    width: int | None,
) -> Sequence[TermSpec]:
    return [
        TermSpec(
            teacher=teacher.name,
            method_name=entry.name,
            method=entry.method,
            weight=_product(teacher.weight, entry.weight),
            vocabulary=vocabulary,
            projection=projection if reads_projection(entry, config) else None,
            width=width,
        )
        for entry in teacher.methods
    ]


def _product(weight: float | Schedule, factor: float) -> float | Schedule:
    return weight.times(factor) if isinstance(weight, Schedule) else weight * factor


def engine_options(config: RunConfig) -> EngineOptions:
    """What each rank's engine is built from."""
    train = config.train
    return EngineOptions(
        micro_batch=config.micro_batch,
        accumulation=train.global_batch // (config.micro_batch * config.student.num_ranks),
        dtype=config.student.dtype,
        learning_rate=train.learning_rate,
        lr_schedule=train.lr_schedule,
        warmup_steps=train.warmup_steps,
        max_steps=train.max_steps,
        betas=train.betas,
        weight_decay=train.weight_decay,
        max_grad_norm=train.max_grad_norm,
        extra=dict(config.deepspeed),
        stages=tuple(
            Stage(stage.steps, stage.trainable == "embeddings", stage.learning_rate)
            for stage in train.stages
        ),
        average_decay=next((t.refresh.decay for t in config.teachers if t.refresh), None),
    )


def student_threads(config: RunConfig, machine: Machine) -> int:
    """Those of each rank: as asked for, or a fair share of the cores that the teachers leave.

    Spinning threads cost a factor 5.
    """
    taken = sum(teacher.threads or 1 for teacher in config.teacher_actors)
    fair = max(1, (machine.num_cpus - taken) // config.student.num_ranks)
    return config.student.threads or fair
