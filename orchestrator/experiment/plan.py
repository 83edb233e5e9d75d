"""Which trainings an experiment is made of: the run file of every arm and seed.

Arms differ in their teachers' methods and weights, in the mixture and in the optimisation. The
student, the text, the teachers' models and the number of steps are those of the experiment.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from losses.base import Method
from orchestrator.config import (
    ArmConfig,
    ArmTeacherConfig,
    CompareConfig,
    ExperimentConfig,
    RunConfig,
    parse_run,
)
from orchestrator.config.load import read_mapping
from orchestrator.config.messages import unknown
from orchestrator.config.overrides import apply_overrides
from orchestrator.config.shipped import find_run_file
from orchestrator.continuation import changed_keys
from orchestrator.errors import ConfigError

OF_AN_ARM = (
    "deepspeed*",
    "mixture.*",
    "teachers",
    "teachers.order",
    "teachers.*.methods*",
    "teachers.*.projection.*",
    "teachers.*.weight",
    "train.*",
)
"""Keys in which arms may differ."""

OF_ALL_ARMS = ("train.global_batch", "train.max_steps", "train.seed")
"""Keys below these in which they may not: equal steps, paired seeds."""


OF_THE_EXPERIMENT = ("train.seed", "output_dir", "compare")
"""Keys that the experiment sets itself."""


@dataclass(frozen=True)
class Trial:
    """One arm with one seed."""

    arm: str
    seed: int
    config: RunConfig

    @property
    def folder(self) -> Path:
        """Where it is kept; absolute."""
        return Path(self.config.output_dir).absolute()

    @property
    def title(self) -> str:
        """What it is called in progress and messages."""
        return f"{self.arm} seed {self.seed}"


def plan(experiment: ExperimentConfig) -> tuple[Trial, ...]:
    """Every training, seed by seed, so that what is finished first can be compared.

    Gates are left to the first seed of an arm: the others have the same models and methods.

    Raises:
        ConfigError: an arm is wrong; names its place in the experiment file.
    """
    for override in experiment.overrides:
        if (key := override.partition("=")[0].strip()).startswith(OF_THE_EXPERIMENT):
            raise ConfigError(f"overrides: {key} is the experiment's own (seeds, output_dir, arms)")
    file = find_run_file(experiment.run)
    base = apply_overrides(read_mapping(file, RunConfig), experiment.overrides)
    base |= {"compare": {}}
    parse_run(base, f"{file} with the experiment's overrides")
    configs = [_arm_config(base, arm, place) for place, arm in enumerate(experiment.arms)]
    _check_mixtures(experiment, configs)
    seeds = [arm.seeds or experiment.seeds for arm in experiment.arms]
    every = dict.fromkeys([*experiment.seeds, *(seed for row in seeds for seed in row)])
    return tuple(
        Trial(arm.name, seed, _with_seed(config, experiment, arm.name, seed, first=seed == row[0]))
        for seed in every
        for arm, config, row in zip(experiment.arms, configs, seeds, strict=True)
        if seed in row
    )


def _with_seed(
    config: RunConfig, experiment: ExperimentConfig, arm: str, seed: int, *, first: bool
) -> RunConfig:
    changes: dict[str, Any] = {
        "train": config.train.model_copy(update={"seed": seed}),
        "output_dir": experiment.output_dir / "arms" / arm / f"seed-{seed}",
    }
    if not first:
        changes["checks"] = config.checks.model_copy(update={"documents": 0})
    return config.model_copy(update=changes)


def _arm_config(base: dict[str, Any], arm: ArmConfig, place: int) -> RunConfig:
    """The run file of one arm.

    Raises:
        ConfigError: it is no valid run file, or differs from the others where it must not.
    """
    where = f"arms[{place}] ({arm.name})"
    teachers = [
        _teacher(base, entry, f"{where}.teachers[{i}]") for i, entry in enumerate(arm.teachers)
    ]
    own = base | {"teachers": teachers}
    config = parse_run(apply_overrides(own, arm.overrides), where)
    changed = changed_keys(_comparable(base, own, where), config)
    if wrong := [key for key in changed if not _is_free(key)]:
        lines = [f"{where}.overrides: {key} is the same in all arms" for key in wrong]
        raise ConfigError("\n".join([*lines, "set it in the experiment's own overrides or seeds"]))
    return config


def _check_mixtures(experiment: ExperimentConfig, configs: Sequence[RunConfig]) -> None:
    """Refuse what needs more of a teacher than is remembered of it, or other documents."""
    for place, (arm, config) in enumerate(zip(experiment.arms, configs, strict=True)):
        where, mixture = f"arms[{place}] ({arm.name})", config.mixture
        if experiment.remember and mixture.weights.asks is not None:
            raise ConfigError(
                f"{where}: mixture.weights of this kind judge the teachers on each document, which "
                "remembered answers do not tell; set remember: false"
            )
        if any(t.share_weights or t.refresh for t in config.teachers):
            raise ConfigError(
                f"{where}: share_weights and refresh are not in experiments yet, since arms share "
                "what teachers say; leave them out, or compare separate runs"
            )
        if any(t.record for t in config.teachers):
            raise ConfigError(
                f"{where}: record is not in experiments, since an arm's methods are only some of "
                "those that the teachers are asked for; leave it out, and use tutelage capture"
            )
        if mixture.routing is not None:
            raise ConfigError(
                f"{where}: mixture.routing is not in experiments yet, since all arms read the same "
                "documents; leave it out, or compare separate runs"
            )


def _comparable(base: dict[str, Any], own: dict[str, Any], where: str) -> RunConfig:
    """The run file with this arm's teachers, before its overrides."""
    return parse_run(own | {"mixture": {}}, where)


def _teacher(base: dict[str, Any], entry: ArmTeacherConfig, where: str) -> dict[str, Any]:
    """The run file's teacher with the arm's methods."""
    teachers = {teacher["name"]: teacher for teacher in base.get("teachers") or []}
    if entry.name not in teachers:
        raise ConfigError(f"{where}.name: {unknown('teacher', entry.name, teachers)}")
    given = {
        key: value for key, value in entry.model_dump(mode="json").items() if value is not None
    }
    own: dict[str, Any] = teachers[entry.name] | given
    return own


def _is_free(key: str) -> bool:
    return any(fnmatchcase(key, p) for p in OF_AN_ARM) and key not in OF_ALL_ARMS


def parts_of(trials: Sequence[Trial]) -> dict[str, list[tuple[Method, ...]]]:
    """By teacher, each combination of methods that some arm needs of it, once."""
    parts: dict[str, list[tuple[Method, ...]]] = {}
    for trial in trials:
        for name, methods in methods_of(trial.config):
            known = parts.setdefault(name, [])
            if methods not in known:
                known.append(methods)
    return parts


def methods_of(config: RunConfig) -> Iterator[tuple[str, tuple[Method, ...]]]:
    """Each teacher's methods, without their weights."""
    for teacher in config.teachers:
        yield teacher.name, tuple(entry.method for entry in teacher.methods)


def with_all_teachers(trials: Sequence[Trial]) -> RunConfig:
    """A run file with every teacher that some arm has, as in the first arm that has it.

    It tells which tokenizers must read the text and what the machine must hold; no arm is it.
    """
    first = trials[0].config
    found = {t.name: t for trial in reversed(trials) for t in trial.config.teachers}
    names = dict.fromkeys(t.name for trial in trials for t in trial.config.teachers)
    return first.model_copy(
        update={"teachers": tuple(found[name] for name in names), "compare": CompareConfig()}
    )
