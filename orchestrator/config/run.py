"""The whole run file, and the checks that need more than one of its parts."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    Strict,
    field_validator,
    model_validator,
)

from orchestrator.config.cache_teacher import record_problems
from orchestrator.config.checks import ChecksConfig
from orchestrator.config.deepspeed import OWNED_KEYS, check_deepspeed, read_deepspeed, zero_stage
from orchestrator.config.faults import FaultsConfig, faults_problems
from orchestrator.config.mixture import MixtureConfig, mixture_problems
from orchestrator.config.offload import offload_problems
from orchestrator.config.problems import Problem, raise_if_any
from orchestrator.config.resources import ClusterConfig
from orchestrator.config.section import (
    Expected,
    Items,
    Section,
    expand_home,
    refuse_keys,
    refuse_non_finite,
)
from orchestrator.config.self_teacher import self_problems
from orchestrator.config.server import entropy_problems
from orchestrator.config.stages import stages_problems
from orchestrator.config.student import StudentConfig
from orchestrator.config.targets import targets_problems
from orchestrator.config.teacher import TeacherConfig, repeated_names
from orchestrator.config.training import CompareConfig, DataConfig, TrainConfig
from orchestrator.config.whole_modules import whole_modules_problems

DeepSpeedOptions = Annotated[
    dict[str, Any],
    BeforeValidator(read_deepspeed, json_schema_input_type=dict[str, Any] | str),
    AfterValidator(refuse_keys(OWNED_KEYS)),
    AfterValidator(refuse_non_finite),
    AfterValidator(check_deepspeed),
    Expected("a mapping or the path of a JSON file"),
]


class RunConfig(Section):
    """Everything that a run is made of."""

    student: StudentConfig
    """The model that is trained."""
    teachers: Items[TeacherConfig] = ()
    """The frozen models that it learns from, each name once; [] is plain cross-entropy."""
    mixture: MixtureConfig = MixtureConfig()
    """How the losses become one number."""
    data: DataConfig
    """The text."""
    train: TrainConfig = TrainConfig()
    """The optimisation."""
    compare: CompareConfig = CompareConfig()
    """What the distilled student is compared with."""
    checks: ChecksConfig = ChecksConfig()
    """What must hold on the loaded models before the first step."""
    faults: FaultsConfig = FaultsConfig()
    """What happens when a process dies, hangs, or says what is no number."""
    resources: ClusterConfig = ClusterConfig()
    """Where all of it runs; this machine by default. docs/cluster.md explains it."""
    deepspeed: DeepSpeedOptions = Field(default_factory=dict)
    """DeepSpeed's own options, inline or as the path of a JSON file; passed through as they are,
    only unknown keys and those that this file owns are refused."""
    output_dir: Annotated[Path, Strict(False), AfterValidator(expand_home)]
    """Folder of checkpoints, metrics and summary; relative paths start at the current folder."""

    @property
    def micro_batch(self) -> int:
        """Documents in one pass of a rank: ``train.micro_batch``, or its whole share if less."""
        return min(self.train.micro_batch, self.train.global_batch // self.student.num_ranks)

    @property
    def teacher_actors(self) -> tuple[TeacherConfig, ...]:
        """The teachers that run in a process of their own."""
        return tuple(teacher for teacher in self.teachers if not teacher.share_weights)

    @field_validator("teachers")
    @classmethod
    def _each_once(cls, teachers: tuple[TeacherConfig, ...]) -> tuple[TeacherConfig, ...]:
        if repeated := repeated_names([teacher.name for teacher in teachers]):
            raise ValueError(f"{repeated} appears more than once; expected each name once")
        return teachers

    @model_validator(mode="after")
    def _consistent(self) -> "RunConfig":
        problems = [*_batches(self), *_losses(self), *_steps(self.train), *_overlap(self.data)]
        names = [teacher.name for teacher in self.teachers]
        mixture = mixture_problems(self.mixture, names, self.deepspeed)
        targets = targets_problems(self.mixture, self.teachers)
        modules = [
            *whole_modules_problems(self.mixture, self.teachers, self.deepspeed, self.faults),
            *faults_problems(self.faults, self.mixture, self.teachers),
        ]
        own = self_problems(self.student, self.teachers, self.mixture, self.deepspeed)
        kinds = [teacher.kind for teacher in self.teachers]
        served = entropy_problems(self.mixture.weights.asks, kinds)
        record = record_problems(self.teachers, self.output_dir)
        train = [*_stages(self), *_best(self), *_shares(self)]
        train += offload_problems(
            self.resources, self.student, self.teachers, self.train, self.deepspeed
        )
        raise_if_any([*problems, *mixture, *targets, *modules, *own, *served, *record, *train])
        return self


def _batches(config: RunConfig) -> Iterator[Problem]:
    train, ranks = config.train, config.student.num_ranks
    if train.global_batch % ranks:
        yield Problem(
            ("train", "global_batch"),
            f"{train.global_batch} is not a multiple of student.num_ranks = {ranks}; expected "
            "equally many documents for each rank",
        )
    elif (train.global_batch // ranks) % config.micro_batch:
        yield Problem(
            ("train", "global_batch"),
            f"{train.global_batch} is not a multiple of train.micro_batch × student.num_ranks = "
            f"{train.micro_batch} × {ranks}; expected a multiple of {train.micro_batch * ranks}",
        )


def _losses(config: RunConfig) -> Iterator[Problem]:
    if config.teachers:
        return
    if config.mixture.ce_weight == 0:
        yield Problem(
            ("mixture", "ce_weight"),
            "0 without teachers leaves nothing to train on; expected above 0, or a teacher",
        )
    if config.compare.ce_only is not None:
        yield Problem(
            ("compare", "ce_only"),
            "without teachers the run itself is cross-entropy alone; expected null, or a teacher",
        )


def _steps(train: TrainConfig) -> Iterator[Problem]:
    if train.warmup_steps >= train.max_steps:
        yield Problem(
            ("train", "warmup_steps"),
            f"{train.warmup_steps} never ends within train.max_steps = {train.max_steps}; "
            "expected fewer steps",
        )
    if train.save_steps > train.max_steps:
        yield Problem(
            ("train", "save_steps"),
            f"{train.save_steps} is never reached within train.max_steps = {train.max_steps}; "
            "expected fewer steps, or 0 to save only at the end",
        )


def _stages(config: RunConfig) -> Iterator[Problem]:
    train, student = config.train, config.student
    yield from stages_problems(train.stages, train.max_steps, train.warmup_steps)
    frozen = student.lora is not None and not student.transfers
    for index, stage in enumerate(train.stages):
        if frozen and stage.trainable == "embeddings":
            yield Problem(
                ("train", "stages", index, "trainable"),
                "with student.lora the embeddings are trained only where student.tokenizer is "
                'another one; expected "all"',
            )


def _shares(config: RunConfig) -> Iterator[Problem]:
    train, stage = config.train, zero_stage(config.deepspeed)
    passes = train.global_batch // config.student.num_ranks // max(1, config.micro_batch)
    if stage == 3 and train.gradient_share_steps and passes > 2:
        yield Problem(
            ("train", "gradient_share_steps"),
            f"shares of the gradient cannot be measured under ZeRO-3 with {passes} micro-batches a "
            "step; expected 0, or train.micro_batch raised until there are two at most",
        )


def _best(config: RunConfig) -> Iterator[Problem]:
    if not config.train.keep_best:
        return
    for missing, rule in (
        (not config.data.validation, "data.validation to choose by"),
        (not config.train.save_steps, "train.save_steps above 0"),
    ):
        if missing:
            yield Problem(("train", "keep_best"), f"true needs {rule}")


def _overlap(data: DataConfig) -> Iterator[Problem]:
    seen = {_file(path): "train" for path in data.train}
    for split, paths in (("validation", data.validation), ("held_out", data.held_out)):
        for index, path in enumerate(paths):
            if _file(path) in seen:
                yield Problem(
                    ("data", split, index),
                    f'"{path}" is also in data.{seen[_file(path)]}; expected text unseen there',
                )
        seen |= {_file(path): split for path in paths}


def _file(reference: str) -> str:
    """One name for every way to write a path."""
    return reference if reference.startswith("asset:") else os.path.realpath(reference)
