"""What an experiment asks once, before its arms train: signals of the text, and scores.

Then the teachers stop, so that the student has the machine for itself.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tqdm.auto import tqdm

from losses.document import Document
from orchestrator import actors
from orchestrator.cluster import Machine
from orchestrator.config import RunConfig
from orchestrator.data import documents_of_step
from orchestrator.experiment.folder import known_scores
from orchestrator.experiment.plan import Trial, parts_of
from orchestrator.gates.chosen import FIRST, spread
from orchestrator.interruption import StopRequest
from orchestrator.outcome import Scores, save_before
from orchestrator.placement import placed
from orchestrator.remembered import Memory, Part, ask, groups_of, methods_of_parts
from orchestrator.setup import STUDENT, Setup
from orchestrator.specs import student_spec, teacher_specs


def scores_before(config: RunConfig, setup: Setup, folder: Path, machine: Machine) -> Scores:
    """Each teacher's and the untrained student's scores of the held-out text.

    Those that ``before.json`` has are not measured again.
    """
    known = known_scores(folder)
    wanted = tuple(teacher for teacher in config.teachers if teacher.name not in known)
    asked = config.model_copy(update={"teachers": wanted})
    specs = [replace(spec, methods=()) for spec in teacher_specs(asked, machine)]
    limit, documents = config.train.timeout_s, setup.held_out.documents
    with placed(asked, machine, students=STUDENT not in known) as placement:
        scoring, loading = actors.start_teachers(specs, asked, placement)
        try:
            if STUDENT not in known:
                bare = config.model_copy(update={"teachers": ()})
                spec = student_spec(bare, machine, {})
                students, preparing = actors.start_students(spec, bare, placement, folder)
                scoring, loading = scoring | students, loading | preparing
            actors.loaded(loading, limit)
            pending = {name: actor.evaluate.remote(documents) for name, actor in scoring.items()}
            found = actors.collect(pending, limit, "scoring documents")
        finally:
            actors.kill(scoring.values())
    known |= {name.split("/")[0]: scores for name, scores in found.items()}
    save_before(folder, known)
    return known


def remember(
    config: RunConfig,
    trials: Sequence[Trial],
    left: Sequence[Trial],
    documents: Sequence[Document],
    machine: Machine,
    stop: StopRequest,
) -> Memory:
    """Ask the teachers of the trainings that are left for all they need, once.

    Args:
        config: with every teacher of the experiment.
        trials: all trainings; the documents that they read are asked for in the same groups
            however many trainings are left, so that a resumed experiment gets the same bits.
        left: the trainings that are not finished.
        documents: the training text.
        machine: what the cluster has.
        stop: who may stop it.
    """
    parts: dict[str, list[Part]] = parts_of(left)
    wanted = tuple(teacher for teacher in config.teachers if teacher.name in parts)
    asked = config.model_copy(update={"teachers": wanted})
    specs = [
        replace(spec, methods=tuple(methods_of_parts(parts[spec.name])))
        for spec in teacher_specs(asked, machine)
    ]
    limit = config.train.timeout_s
    with placed(asked, machine, students=False) as placement:
        teachers, loading = actors.start_teachers(specs, asked, placement)
        try:
            actors.loaded(loading, limit)
            groups = groups_of(documents_read(trials, documents))
            memory = ask(teachers, parts, groups)
            for group in tqdm(memory.answered, desc="asking the teachers", dynamic_ncols=True):
                actors.collect(group, limit, "answering")
                stop.check("no arm was begun; go on with --resume")
        finally:
            actors.kill(teachers.values())
    return memory


def documents_read(trials: Sequence[Trial], documents: Sequence[Document]) -> list[Document]:
    """The documents of any step or gate, in the order of the training text."""
    names: set[str] = set()
    for trial in trials:
        train = trial.config.train
        names |= {d.name for d in spread(documents[:FIRST], trial.config.checks.documents)}
        for step in range(train.max_steps):
            chosen = documents_of_step(documents, step, train.global_batch, train.seed)
            names |= {document.name for document in chosen}
    return [document for document in documents if document.name in names]
