"""Runs the trainings of an experiment, one after another, and writes what they came to.

One that is finished is not run again. One that was interrupted by SIGTERM goes on where it stood,
one that was killed starts anew; either way the numbers are those of an experiment left alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator import cluster
from orchestrator.config import ExperimentConfig, RunConfig
from orchestrator.errors import ConfigError
from orchestrator.experiment.folder import claim, drop_weights, finished, open_folder
from orchestrator.experiment.plan import Trial, plan, with_all_teachers
from orchestrator.experiment.questions import remember, scores_before
from orchestrator.experiment.results import Results, results_of
from orchestrator.experiment.table import save_results
from orchestrator.interruption import stop_on_signals
from orchestrator.processes import Run
from orchestrator.projections import needed_projections
from orchestrator.run import inputs_of, run_arm
from orchestrator.run_folder import locked
from orchestrator.setup import STUDENT, Setup, check_methods, set_up


@dataclass(frozen=True)
class Course:
    """What the trainings of an experiment share, and what each arm is set up with."""

    experiment: ExperimentConfig
    trials: tuple[Trial, ...]
    config: RunConfig
    setup: Setup
    arms: Mapping[str, Setup]

    @classmethod
    def of(cls, experiment: ExperimentConfig) -> "Course":
        """Read everything but the weights, and check every arm.

        Raises:
            ConfigError: something does not fit; names the arm.
        """
        trials = plan(experiment)
        config = with_all_teachers(trials)
        if config.resources.offload:
            raise ConfigError(
                "resources.offload: an experiment asks its teachers before it trains, so they "
                "never share a GPU with the student; expected false"
            )
        setup = set_up(config, check=False)
        one_each = {trial.arm: trial for trial in trials}
        arms = {name: _arm_setup(trial, setup) for name, trial in one_each.items()}
        return cls(experiment, trials, config, setup, arms)

    @property
    def left(self) -> tuple[Trial, ...]:
        """The trainings that are not finished."""
        return tuple(trial for trial in self.trials if finished(trial) is None)


def _arm_setup(trial: Trial, common: Setup) -> Setup:
    """The experiment's text, which every teacher reads, with this arm's tokenizers and W."""
    by_name = {tokenizer.name: tokenizer for tokenizer in common.tokenizers}
    names = (STUDENT, *(teacher.name for teacher in trial.config.teachers))
    try:
        check_methods(trial.config, by_name)
    except ConfigError as error:
        raise ConfigError(f"arm {trial.arm}: {error}") from error
    return replace(
        common,
        tokenizers=tuple(by_name[name] for name in names),
        projections=needed_projections(trial.config, by_name[STUDENT], by_name),
        models={name: common.models[name] for name in names},
    )


def run_experiment(
    experiment: ExperimentConfig, *, overwrite: bool = False, resume: bool = False
) -> Results:
    """Run what is not finished, then compare.

    Args:
        experiment: the experiment file.
        overwrite: move what ``output_dir`` holds aside and start anew.
        resume: go on with the experiment in ``output_dir``; it may have gained arms and seeds.

    Raises:
        ConfigError: the experiment, its run file or its data are wrong, or not what was started.
        ResourcesError: the machine lacks what is asked for.
        TrainingDiverged: a loss is not finite.
        WorkerLost: a process died or fell silent.
        Interrupted: SIGTERM or Ctrl-C; what was trained is saved.
    """
    course = Course.of(experiment)
    folder = open_folder(experiment, overwrite=overwrite, resume=resume)
    with locked(folder):
        claim(folder, experiment, course.trials, inputs_of(course.setup))
        if course.left:
            _run(course, folder)
        outcomes = {(t.arm, t.seed): found for t in course.trials if (found := finished(t))}
        results = results_of(experiment, course.trials, outcomes)
        save_results(results, folder)
    return results


def _run(course: Course, folder: Path) -> None:
    """Ask once, then train what is left."""
    config, documents = course.config, course.setup.train.documents
    with cluster.running(config) as machine, stop_on_signals() as stop:
        before = scores_before(config, course.setup, folder, machine)
        stop.check("no arm was begun; go on with --resume")
        memory = None
        if course.experiment.remember:
            memory = remember(config, course.trials, course.left, documents, machine, stop)
        for trial in course.left:
            setup = course.arms[trial.arm]
            run = Run(
                setup=setup,
                inputs=inputs_of(setup),
                validation=(),
                machine=machine,
                stop=stop,
                memory=memory,
                before=before,
                keep_models=course.experiment.keep_models,
            )
            number = course.trials.index(trial) + 1
            title = f"{trial.title} ({number} of {len(course.trials)})"
            run_arm(trial.config, run, trial.folder, title)
            if not course.experiment.keep_models:
                drop_weights(trial.folder)
