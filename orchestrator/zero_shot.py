"""``tutelage transfer``: the student with its new tokenizer, before any training, as a folder."""

from dataclasses import dataclass
from pathlib import Path

from transformers import AutoTokenizer

from orchestrator.atomic import atomic_folder
from orchestrator.config import RunConfig, StudentConfig
from orchestrator.errors import ConfigError
from orchestrator.export import PROBE
from orchestrator.references import find_references, how_to_fetch, output_problems, refuse
from orchestrator.sources import student_source
from orchestrator.student.layers import keep_layers, kept_layers
from orchestrator.student.ngram_model import write_modelling_file
from orchestrator.student.tokenizer_folder import save_tokenizer
from orchestrator.student.transfer import TransferReport, transfer
from orchestrator.student_tokenizer import new_tokenizer, student_tokenizer
from teachers.backends.transformers import LanguageModel, load_weights
from teachers.tokenizer import Tokenizer


@dataclass(frozen=True)
class ZeroShot:
    """What was written.

    Args:
        folder: where.
        report: how the new rows came about.
        num_bytes: size of the folder's files.
    """

    folder: str
    report: TransferReport
    num_bytes: int


def write_zero_shot(config: RunConfig, target: Path | None = None) -> ZeroShot:
    """Write the untrained student, without padded rows, to a folder that ``from_pretrained`` opens.

    Args:
        config: the run; only its student is read.
        target: must not exist; ``OUTPUT_DIR-zero-shot`` by default.

    Raises:
        ConfigError: the student keeps its tokenizer, or something that is named does not fit.
        FileExistsError: the target exists.
    """
    default = config.output_dir.with_name(f"{config.output_dir.name}-zero-shot")
    folder = (target or default).expanduser().absolute()
    _check(config, folder)
    return write_student(config.student, folder, config.train.seed)


def write_student(student: StudentConfig, folder: Path, seed: int = 0) -> ZeroShot:
    """The same for a student alone; the folder must not exist.

    Raises:
        ConfigError: the student keeps its tokenizer, or a tokenizer cannot be used.
    """
    given = new_tokenizer(student)
    if given is None:
        raise ConfigError(
            "student.tokenizer: it is that of student.init, so there is nothing to transfer; "
            "expected bytes, or another model's tokenizer"
        )
    source = student_source(student)
    try:
        own = Tokenizer.load(source, "student")
    except (OSError, ValueError) as error:
        raise ConfigError(f"student.init: cannot load the tokenizer: {error}") from error
    new = student_tokenizer(student, own, [])
    model = load_weights(source, "cpu")
    depth = model.config.get_text_config().num_hidden_layers
    keep_layers(model, kept_layers(depth, student.keep_layers, student.drop_layers))
    report = transfer(model, own, new, given.options, seed, multiple=1)
    _write(LanguageModel.wrap(model, new), folder)
    return ZeroShot(str(folder), report, sum(f.stat().st_size for f in folder.iterdir()))


def _check(config: RunConfig, folder: Path) -> None:
    """Refuse what can be seen before any weight is loaded."""
    if folder.exists():
        raise FileExistsError(f"{folder} exists already; expected a new name, or remove it")
    found = find_references(config)
    problems = [text for text in found.problems if text.startswith("student.")]
    missing = [how_to_fetch(r) for r in found.unfetched if r.place.startswith("student.")]
    refuse([*problems, *missing, *(f"target folder: {text}" for text in output_problems(folder))])


def _write(student: LanguageModel, folder: Path) -> None:
    """The folder appears only when its tokenizer reads as the student's."""
    with atomic_folder(folder) as partial:
        student.model.save_pretrained(partial)
        write_modelling_file(student.model, partial)
        save_tokenizer(student.tokenizer.fast, partial)
        reloaded = AutoTokenizer.from_pretrained(partial)
        if reloaded(PROBE)["input_ids"] != student.tokenizer.fast(PROBE)["input_ids"]:
            raise ConfigError(f"{folder}: the new tokenizer reads text differently when opened")
