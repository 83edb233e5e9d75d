"""From a reference in the run file to the folder or hub id that a model is loaded from."""

from pathlib import Path

from losses.needs import Need
from orchestrator.assets import resolve
from orchestrator.config import StudentConfig, TeacherConfig
from orchestrator.config.server import ServerConfig
from orchestrator.errors import ConfigError
from teachers.server.source import Dialect, ServerSource
from teachers.signal_cache.source import CacheParity, CacheSource
from teachers.source import ModelSource
from teachers.teacher_source import TeacherSource

PARITY_TOLERANCE = {"float32": 1e-4, "bfloat16": 0.05}
"""Of a cache's signals and a live model's, by the number format of the model."""


def model_path(reference: str) -> str:
    """The absolute folder a model reference names, or the hub id itself.

    Raises:
        ConfigError: it looks like a path, but there is no such folder.
    """
    if reference.startswith("asset:"):
        return str(resolve(reference))
    path = Path(reference).expanduser()
    if path.is_dir():
        return str(path.absolute())
    looks_local = reference.startswith((".", "/", "~")) or reference.count("/") > 1
    if path.is_file():
        raise ConfigError(f"model {reference} is a file; expected a folder with config.json")
    if looks_local:
        raise ConfigError(f"model folder {reference} does not exist")
    return reference


def speaking_source(teacher: TeacherConfig, student: StudentConfig) -> TeacherSource:
    """Where the teacher's signals come from: weights, a server, or a folder."""
    if teacher.path is not None:
        return _cache_source(teacher)
    if teacher.server is not None:
        return _server_source(teacher, teacher.server, tokenizer_source(teacher, student))
    return teacher_source(teacher, student)


def tokenizer_source(teacher: TeacherConfig, student: StudentConfig) -> ModelSource:
    """Where the teacher's tokenizer comes from."""
    if teacher.tokenizer is None:
        return teacher_source(teacher, student)
    return ModelSource(
        path=model_path(teacher.tokenizer),
        revision=teacher.revision,
        trust_remote_code=teacher.trust_remote_code,
        template=teacher.template,
    )


def _server_source(
    teacher: TeacherConfig, server: ServerConfig, tokenizer: ModelSource
) -> ServerSource:
    reads_top = any(Need.TOP_K in entry.method.needs for entry in teacher.methods)
    return ServerSource(
        url=server.url,
        model=teacher.model or "",
        tokenizer=tokenizer,
        dialect=Dialect(server.dialect),
        top_logprobs=server.top_logprobs if reads_top else 0,
        api_key_variable=server.api_key_variable,
        timeout_s=server.timeout_s,
        retries=server.retries,
        concurrency=server.concurrency,
        tolerance=server.tolerance,
        parity=_parity(teacher),
    )


def _parity(teacher: TeacherConfig) -> ModelSource | Path | None:
    reference = teacher.model_parity
    if reference is None:
        return None
    if is_sample(reference):
        return Path(reference).expanduser().absolute()
    return ModelSource(model_path(reference), dtype=teacher.dtype)


def cache_path(teacher: TeacherConfig) -> Path:
    """The absolute folder of a teacher of kind cache.

    Raises:
        ConfigError: it is of another kind.
    """
    if teacher.path is None:
        raise ConfigError(f"teachers.{teacher.name}.path: missing; expected kind cache")
    return Path(teacher.path).expanduser().absolute()


def _cache_source(teacher: TeacherConfig) -> CacheSource:
    parity = None
    if teacher.model_parity is not None:
        model = ModelSource(
            path=model_path(teacher.model_parity),
            dtype=teacher.dtype,
            options=dict(teacher.model_options),
            template=teacher.template,
        )
        tolerance = teacher.parity_tolerance or PARITY_TOLERANCE[teacher.dtype]
        parity = CacheParity(model, tolerance)
    return CacheSource(str(cache_path(teacher)), parity)


def is_sample(reference: str) -> bool:
    """True if ``model_parity`` names the file of a recorded sample."""
    return reference.endswith(".safetensors")


def teacher_source(teacher: TeacherConfig, student: StudentConfig) -> ModelSource:
    """Where the teacher's weights come from; kind ``self`` has those of the student's ``init``.

    Raises:
        ConfigError: a server has them, or nobody here: its signals lie in a folder.
    """
    if teacher.path is not None and teacher.model is None:
        raise ConfigError(
            f"teachers.{teacher.name}: it is a folder of signals (kind cache) and names no model; "
            "expected a model that runs here (kind hf)"
        )
    if teacher.server is not None:
        raise ConfigError(
            f"teachers.{teacher.name}: its weights are behind a server (kind openai); expected a "
            "model that runs here (kind hf)"
        )
    own = teacher.model is None
    return ModelSource(
        path=model_path(teacher.model or student.init),
        revision=student.revision if own else teacher.revision,
        trust_remote_code=teacher.trust_remote_code,
        dtype=teacher.dtype,
        options=dict(teacher.model_options),
        template=teacher.template,
        packing=teacher.packing,
    )


def student_source(student: StudentConfig) -> ModelSource:
    """Where the student starts from."""
    return ModelSource(
        path=model_path(student.init),
        revision=student.revision,
        dtype=student.dtype,
        options=dict(student.model_options),
        template=student.template,
        packing=student.packing,
    )
