"""The folder of an experiment: what is there already, and whether it is still the same experiment.

    resolved.yaml    the experiment file as it was read
    inputs.json      digests of text and tokenizers
    before.json      scores of the untrained student and of the teachers
    arms/NAME/seed-N/
        resolved.yaml, metrics.jsonl, gates.json, before.json, outcome.json
    experiment.json  every score and every difference
    table.md         the same to read

An arm and seed whose ``outcome.json`` is there is finished.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from orchestrator.atomic import atomic_write_text
from orchestrator.checkpoint import Inputs
from orchestrator.config import ExperimentConfig, load_run, to_yaml
from orchestrator.continuation import check_continuation
from orchestrator.errors import ConfigError
from orchestrator.experiment.plan import Trial
from orchestrator.metrics import METRICS
from orchestrator.outcome import BEFORE, OUTCOME, Outcome, Scores, load_before, load_outcome
from orchestrator.run_folder import RESOLVED, open_run_folder, renew_run_folder

INPUTS = "inputs.json"
BEGUN = (BEFORE, METRICS, OUTCOME)
"""An arm that has one of these has begun."""


def open_folder(experiment: ExperimentConfig, *, overwrite: bool, resume: bool) -> Path:
    """The experiment's folder, new or to go on in.

    Raises:
        ConfigError: it holds something and neither was asked for, or there is nothing to resume.
    """
    if not resume:
        return open_run_folder(experiment, overwrite=overwrite)
    folder = Path(experiment.output_dir).absolute()
    if not (folder / RESOLVED).is_file():
        raise ConfigError(
            f"output_dir: {folder} holds no experiment to resume ({RESOLVED} is missing); start "
            "it without --resume"
        )
    return folder


def claim(
    folder: Path, experiment: ExperimentConfig, trials: Sequence[Trial], inputs: Inputs
) -> None:
    """Refuse to mix two experiments in one folder; write down what this one is.

    New arms and seeds are welcome; those that have begun must be what they were.

    Raises:
        ConfigError: text, tokenizers or the settings of an arm have changed; names them.
    """
    _check_inputs(folder, inputs)
    for trial in trials:
        if any((trial.folder / name).exists() for name in BEGUN):
            _check_settings(trial, trial.folder / RESOLVED)
    renew_run_folder(folder, experiment)
    for trial in trials:
        atomic_write_text(trial.folder / RESOLVED, to_yaml(trial.config))
    atomic_write_text(folder / INPUTS, json.dumps(dict(inputs.found), indent=1) + "\n")


def _check_settings(trial: Trial, former: Path) -> None:
    try:
        check_continuation(load_run(former), trial.config)
    except ConfigError as error:
        raise ConfigError(f"{trial.title}: {error}") from error


def _check_inputs(folder: Path, inputs: Inputs) -> None:
    path = folder / INPUTS
    if not path.is_file():
        return
    former = json.loads(path.read_text(encoding="utf-8"))
    known = Inputs({name: text for name, text in inputs.found.items() if name in former})
    if changed := known.changed(Inputs({name: former[name] for name in known.found})):
        raise ConfigError(
            f"what the experiment in {folder} reads has changed, so its arms could not be "
            "compared:\n  " + "\n  ".join(changed) + "\nRestore it, or choose another output_dir"
        )


def finished(trial: Trial) -> Outcome | None:
    """What a training came to; None if it has not done all its steps."""
    outcome = load_outcome(trial.folder)
    if outcome is None or outcome.num_steps != trial.config.train.max_steps:
        return None
    return outcome


def known_scores(folder: Path) -> Scores:
    """The scores before training that are there already."""
    return load_before(folder) if (folder / BEFORE).is_file() else {}


def drop_weights(folder: Path) -> None:
    """Delete the checkpoints of a training that is finished."""
    for path in folder.glob("checkpoint-*"):
        shutil.rmtree(path)
    (folder / "latest").unlink(missing_ok=True)
