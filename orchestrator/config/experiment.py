"""The experiment file: a run file, and the arms and seeds in which it is run."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

from annotated_types import MinLen
from pydantic import AfterValidator, Field, Strict, field_validator, model_validator

from orchestrator.config.load import parse, read_mapping
from orchestrator.config.messages import unknown
from orchestrator.config.method import MethodConfig
from orchestrator.config.mixture import Weight
from orchestrator.config.overrides import apply_overrides
from orchestrator.config.problems import Problem, raise_if_any
from orchestrator.config.section import Expected, Items, Section, expand_home
from orchestrator.config.shipped import find_experiment
from orchestrator.config.teacher import repeated_names

ARM_RULE = "letters, digits, _, + and -"

PAIR_RULE = "a list of two arms: the one that may be better, and the one it is compared with"

Override = Annotated[str, Expected("text of the form key.sub=value, as on the command line")]

Seed = Annotated[int, Field(ge=0, lt=2**32)]


def _check_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_+-]+", name):
        raise ValueError(f'"{name}" is not a name; expected {ARM_RULE}')
    return name


def _each_once(seeds: tuple[int, ...]) -> tuple[int, ...]:
    if repeated := repeated_names([str(seed) for seed in seeds]):
        raise ValueError(f"{repeated} appears more than once; expected each seed once")
    return seeds


Seeds = Annotated[Items[Seed], MinLen(1), AfterValidator(_each_once)]


class ArmTeacherConfig(Section):
    """One teacher of an arm: the run file's of that name, with the arm's methods."""

    name: str
    """Which of the run file's teachers."""
    weight: Weight | None = None
    """Factor of all of its losses, a number or a schedule; null is the run file's."""
    methods: Annotated[Items[MethodConfig], MinLen(1)]
    """What it feeds, in place of the run file's methods."""


class ArmConfig(Section):
    """One arm: the run file with these teachers and overrides."""

    name: Annotated[str, AfterValidator(_check_name), Expected(ARM_RULE)]
    """What the arm is called in folders and tables."""
    teachers: Items[ArmTeacherConfig] = ()
    """The teachers of this arm, each name once; [] is plain cross-entropy."""
    overrides: Items[Override] = ()
    """Settings of this arm alone, below ``mixture``, ``train`` and ``deepspeed``."""
    seeds: Seeds | None = None
    """Seeds of this arm; null is those of the experiment."""

    @field_validator("teachers")
    @classmethod
    def _teachers_once(cls, teachers: tuple[ArmTeacherConfig, ...]) -> tuple[ArmTeacherConfig, ...]:
        if repeated := repeated_names([teacher.name for teacher in teachers]):
            raise ValueError(f"{repeated} appears more than once; expected each name once")
        return teachers


class ExperimentConfig(Section):
    """Everything that an experiment is made of."""

    run: str
    """The run file that every arm starts from: a path, or the name of a shipped one."""
    overrides: Items[Override] = ()
    """Settings of all arms, put into the run file as on the command line."""
    seeds: Seeds = (0, 1, 2)
    """Seeds of every arm. Arms with the same seed see the same documents in the same order."""
    arms: Annotated[Items[ArmConfig], MinLen(1)]
    """What is compared, each name once."""
    baseline: str | None = None
    """The arm that every other one is compared with; null is none."""
    comparisons: Items[Annotated[Items[str], Expected(PAIR_RULE)]] | None = None
    """Further pairs [arm, other]; null compares each arm of several teachers with the best of the
    arms that have one of them, the same way."""
    remember: bool = True
    """Ask each teacher once for each document, before the arms train; false keeps the teachers
    running beside every arm, for text too large for memory and disk."""
    keep_models: bool = False
    """Keep the trained model of every arm and seed."""
    output_dir: Annotated[Path, Strict(False), AfterValidator(expand_home)]
    """Folder of arms and tables; relative paths start at the current folder."""

    @model_validator(mode="after")
    def _consistent(self) -> "ExperimentConfig":
        names = [arm.name for arm in self.arms]
        problems = [*_repeated(names), *_unknown_arms(self, names)]
        raise_if_any(problems)
        return self


def _repeated(names: list[str]) -> Iterator[Problem]:
    if repeated := repeated_names(names):
        yield Problem(("arms",), f"{repeated} appears more than once; expected each name once")


def _unknown_arms(config: ExperimentConfig, names: list[str]) -> Iterator[Problem]:
    if config.baseline is not None and config.baseline not in names:
        yield Problem(("baseline",), unknown("arm", config.baseline, names))
    for index, pair in enumerate(config.comparisons or ()):
        if len(pair) != 2:
            yield Problem(("comparisons", index), f"{len(pair)} arms; expected {PAIR_RULE}")
        for place, name in enumerate(pair):
            if name not in names:
                yield Problem(("comparisons", index, place), unknown("arm", name, names))


def load_experiment(path: str | Path, overrides: Iterable[str] = ()) -> ExperimentConfig:
    """Read an experiment file, one's own or a shipped one, with overrides of its own keys.

    Args:
        path: the file, or the name of a shipped one.
        overrides: ``key=value`` and ``arms.NAME.key=value``, values in YAML.

    Raises:
        ConfigError: something is wrong; the text lists every problem, one a line.
    """
    file = find_experiment(path)
    data = apply_overrides(read_mapping(file, ExperimentConfig), overrides)
    return parse(ExperimentConfig, data, str(file))
