"""A teacher's replica: a model, the client of a server, the reader of a folder, or no process."""

from losses.needs import Need
from orchestrator.cluster import fair_gpus
from orchestrator.config import RunConfig, TeacherConfig
from orchestrator.planning.hardware import flops_of
from orchestrator.planning.memory import TOKENIZER_ID, Memory, Moment, pieces, together, worst
from orchestrator.planning.processes import Planned, ProcessPlan, makes_tables, table_seconds
from orchestrator.planning.served import PARSED, answer_bytes
from orchestrator.planning.signal_sizes import Speaker
from orchestrator.planning.skeleton import (
    sizes_of,
    stored_bytes,
    teacher_skeleton,
    without_weights,
)
from orchestrator.planning.teacher_memory import TeacherPlace, teacher_memory
from orchestrator.planning.timing import LOSS_PASSES, READING
from orchestrator.planning.wire import Wire, wire_of
from orchestrator.sources import speaking_source, teacher_source
from teachers.server.source import ServerSource
from teachers.signal_cache.source import CacheParity, CacheSource
from teachers.source import ModelSource
from teachers.teacher_source import TeacherSource

OWN_TOKENS = 0.5
"""Log-softmaxes with backward pass that those of the text's own tokens are worth."""


def plan_wire(teacher: TeacherConfig, config: RunConfig, planned: Planned) -> Wire:
    """What a teacher of any kind sends."""
    documents = [d for d in planned.setup.train.documents if d.goes_to(teacher.name)]
    [tokenizer] = [t for t in planned.setup.tokenizers if t.name == teacher.name]
    read, source = planned.readings[teacher.name], speaking_source(teacher, config.student)
    dtype = ModelSource("", dtype=teacher.dtype).torch_dtype
    hidden = tokenizer.hidden_size or 0  # a server sends no hidden states
    speaker = Speaker(len(tokenizer.vocabulary), hidden, dtype, read.bytes_per_token)
    return wire_of(teacher, source, speaker, read, len(documents))


def plan_teacher(
    teacher: TeacherConfig, config: RunConfig, planned: Planned, wire: Wire
) -> ProcessPlan:
    """One replica of a teacher with a process of its own.

    Raises:
        ResourcesError: it asks for a GPU and there is none.
    """
    if wire.origin == "model":
        return _with_model(teacher, config, planned, wire)
    memory = _without_model(teacher, config, planned, wire)
    threads, replicas = teacher.threads or 1, teacher.resources.replicas
    return ProcessPlan(replicas, 0.0, threads, None, memory, 0, 0.0, 0.0)


def _with_model(
    teacher: TeacherConfig, config: RunConfig, planned: Planned, wire: Wire
) -> ProcessPlan:
    source = teacher_source(teacher, config.student)
    model, read = teacher_skeleton(teacher, config), planned.readings[teacher.name]
    sizes, replicas = sizes_of(model), teacher.resources.replicas
    gpus = fair_gpus(teacher.resources, teacher.device, config, planned.machine)
    parts = config.student.num_ranks * replicas
    place = TeacherPlace(
        on_cpu=not gpus,
        gpus=max(1, int(gpus)),
        ranks=parts,
        signal_bytes=wire.largest_step // parts,
    )
    memory = teacher_memory(teacher, model, sizes, stored_bytes(source), read, place)
    batches = read.requests(teacher.token_budget, parts, packing=teacher.packing)
    flops = sizes.forward_flops(read.padded(batches) / replicas, read.attended_length)
    threads = 0 if gpus else (teacher.threads or 1)
    # Several GPUs hold one model's layers and work one after the other.
    speed = flops_of(planned.hardware, source.torch_dtype, sizes.hidden, threads)
    entries = table_passes(teacher) * read.tokens_per_step / replicas * sizes.vocabulary
    seconds = flops / (speed * READING) + table_seconds(entries, sizes.vocabulary, threads)
    turns = config.resources.offload and gpus > 0
    host = sizes.weight_bytes if turns else 0
    return ProcessPlan(replicas, gpus, threads, sizes, memory, host, flops, seconds)


def table_passes(teacher: TeacherConfig) -> float:
    """Log-softmaxes with backward pass that a teacher's signals are worth."""
    methods = teacher.methods
    passes = LOSS_PASSES / 2 * sum(map(makes_tables, methods))
    own = any(Need.LIKELIHOODS in entry.method.reads for entry in methods)
    return passes or OWN_TOKENS * own


def _without_model(
    teacher: TeacherConfig, config: RunConfig, planned: Planned, wire: Wire
) -> Memory:
    """The tokenizer, one request's signals, and the answers that come in at once."""
    [tokenizer] = [t for t in planned.setup.tokenizers if t.name == teacher.name]
    source, read = speaking_source(teacher, config.student), planned.readings[teacher.name]
    signals = pieces(
        2, wire.largest_step // (config.student.num_ranks * teacher.resources.replicas)
    )
    held, moments = {"signals read": signals.total}, []
    if isinstance(source, ServerSource):
        held = {"tokenizer": TOKENIZER_ID * len(tokenizer.vocabulary)}
        longest = max((length for step in read.steps for length in step), default=0)
        answers = pieces(source.concurrency, longest * answer_bytes(source) * PARSED)
        moments = [Moment("answers", held, together(signals, answers))]
    if (model := _compared_with(source)) is not None:
        weights = sizes_of(without_weights(model)).weight_bytes
        moments.append(Moment("model_parity", held, pieces(1, weights)))
    return worst(moments or [Moment("signals", held)], on_cpu=True)


def _compared_with(source: TeacherSource) -> ModelSource | None:
    """The model that is loaded once, before the first signals, and freed again."""
    match source:
        case ServerSource(parity=ModelSource() as model):
            return model
        case CacheSource(parity=CacheParity(model=model)):
            return model
        case _:
            return None
