"""What can go wrong in a run, and the exit code of the command line for each.

A caller catches these four; everything else is a bug or the operating system's word.
"""


class ConfigError(ValueError):
    """The run file, an override or the data it names is wrong; the text lists every problem."""


class ResourcesError(RuntimeError):
    """The machine or cluster cannot give the CPUs, GPUs or memory that the run asks for."""


class TrainingDiverged(RuntimeError):
    """The loss or the gradient is not a finite number any more."""


class WorkerLost(RuntimeError):
    """A teacher or a student rank died or fell silent, and could not be replaced."""


class TeacherLost(WorkerLost):
    """A teacher is gone for good, or silent: ``faults.teacher_lost`` says what follows."""


class SilentTeacher(TeacherLost):
    """A teacher did not answer in time; it may still do so."""


class SilentRank(WorkerLost):
    """Student ranks did not answer in time; ``names`` are theirs."""

    def __init__(self, message: str, names: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.names = names


class RankLost(WorkerLost):
    """A student rank died: the ranks may start again from the last checkpoint."""


EXIT_CODES: dict[type[Exception], int] = {
    ValueError: 2,
    ResourcesError: 3,
    TrainingDiverged: 4,
    WorkerLost: 5,
    ConnectionError: 5,
}
"""Exit code by error; subclasses count as their parent (``ConfigError`` is a ``ValueError``).

A ``ConnectionError`` is a teacher's server that cannot be reached."""

OTHER_ERROR = 1
"""Exit code of every error that is not in the table."""


def exit_code(error: BaseException) -> int:
    """Exit code of the command line for this error.

    >>> exit_code(ConfigError("train.max_steps: ...")), exit_code(WorkerLost("gemma"))
    (2, 5)
    >>> exit_code(KeyError("x"))
    1
    """
    codes = (code for kind, code in EXIT_CODES.items() if isinstance(error, kind))
    return next(codes, OTHER_ERROR)
