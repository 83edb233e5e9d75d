"""Training from a cache is training from the live teachers, and any student can do it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from orchestrator.arm import batches_from
from orchestrator.cluster import Machine
from orchestrator.config import RunConfig
from orchestrator.setup import set_up
from orchestrator.specs import student_spec, teacher_specs
from orchestrator.student import build
from orchestrator.student.build import build_trainer
from orchestrator.student.trainer import StepReport

METHODS = "methods: [{name: alm, temperature: 2.0}]"

MACHINE = Machine(num_cpus=1, num_gpus=0.0)

Trained = tuple[list[StepReport], dict[str, torch.Tensor]]


@pytest.fixture(scope="module")
def train(distillation) -> Callable[[RunConfig], Trained]:
    """Train a run in this process, on the plain engine; its reports and the student's weights."""
    engine: Any = type(distillation().trainer().engine)

    def run(config: RunConfig) -> Trained:
        setup = set_up(config)
        teachers = {spec.name: spec.build() for spec in teacher_specs(config, MACHINE)}
        spec = student_spec(
            config,
            MACHINE,
            {t.name: t.vocabulary for t in setup.tokenizers},
            setup.projections,
            {t.name: t.hidden_size for t in setup.tokenizers},
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(build, "DeepSpeedEngine", engine)
            trainer = build_trainer(spec, "cpu")
        for entry in config.teachers:
            if any(method.method.needs_teacher_head for method in entry.methods):
                head = teachers[entry.name].head_weights().head(torch.device("cpu"))
                trainer.engine.module.attach_head(entry.name, head)
        reports = []
        for batch in batches_from(0, setup.train.documents, config):
            [shard] = batch.shards
            rows = [teacher.signals(shard) for teacher in teachers.values()]
            signals = [sum(parts, ()) for parts in zip(*rows, strict=True)]
            report = trainer.step(shard, signals, batch.num_scored_bytes, measure_shares=False)
            reports.append(replace(report, seconds={}))
        return reports, trainer.engine.state_dict()

    return run


def same(ours: Trained, theirs: Trained) -> bool:
    weights = zip(ours[1].values(), theirs[1].values(), strict=True)
    return ours[0] == theirs[0] and all(a.equal(b) for a, b in weights)


def test_it_equals_the_live_run_bit_for_bit(captured, small_run, from_caches, train):
    live = train(small_run())
    assert same(train(from_caches(captured)), live)
    assert not same(train(from_caches(captured, "train.seed=1")), live)


def test_one_teacher_may_be_live(captured, small_run, from_caches, train):
    one = {"sentencepiece": captured["sentencepiece"]}
    assert same(train(from_caches(one)), train(small_run()))


def test_a_second_epoch_replays_the_first(captured, small_run, from_caches, train):
    longer = ("train.max_steps=6",)
    ours, live = train(from_caches(captured, *longer)), train(small_run(*longer))
    assert ours[0][:3] == live[0][:3]
    for cached, said in zip(ours[0], live[0], strict=True):
        assert cached.losses == pytest.approx(said.losses, abs=1e-4)


def close(ours: Trained, theirs: Trained) -> None:
    for cached, said in zip(ours[0], theirs[0], strict=True):
        assert cached.losses == pytest.approx(said.losses, abs=1e-4)
    assert len({report.losses for report in ours[0]}) > 1


@pytest.mark.parametrize(
    "other",
    [
        ("train.global_batch=2", "train.micro_batch=1", "train.learning_rate=1e-3"),
        ("student.keep_layers=[0]",),
    ],
)
def test_another_student_learns_from_the_same_cache(captured, small_run, from_caches, train, other):
    close(train(from_caches(captured, *other)), train(small_run(*other)))


def test_a_student_with_another_tokenizer(captured, small_run, train):
    """It reads the same documents, since none is cut."""
    student = "student.init=asset:toy/sentencepiece"
    named = f"teachers=[{{name: t, kind: cache, path: {captured['sentencepiece']}, {METHODS}}}]"
    live = f"teachers=[{{name: t, model: asset:toy/sentencepiece, {METHODS}}}]"
    close(train(small_run(student, named)), train(small_run(student, live)))
