"""What an experiment came to: every arm, every difference, and what two teachers are worth."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

from orchestrator.config import ExperimentConfig, RunConfig
from orchestrator.config.teacher import TeacherConfig
from orchestrator.errors import ConfigError
from orchestrator.experiment.plan import Trial
from orchestrator.experiment.statistics import Difference, Mean, difference, mean_of
from orchestrator.gap import gap_recovered, original_of
from orchestrator.outcome import Outcome
from teachers.document_score import DocumentScore
from teachers.evaluation import bits_per_byte

BEFORE_TRAINING = "before"
"""What the untrained student is called in differences."""

Outcomes: TypeAlias = Mapping[tuple[str, int], Outcome]
"""By arm and seed."""

BySeed: TypeAlias = dict[int, list[DocumentScore]]


@dataclass(frozen=True)
class ArmResult:
    """One arm over its seeds; ``methods`` by teacher, ``gradient_share`` by teacher and ``ce``.

    ``gap_recovered`` is told where the experiment has the student's original among its teachers.
    """

    name: str
    methods: dict[str, list[str]]
    ce_weight: float
    learning_rate: float
    bits_per_byte: dict[int, float]
    mean: Mean
    gap_recovered: Mean | None
    gradient_share: dict[str, float]
    training_s: float


@dataclass(frozen=True)
class Results:
    """A finished experiment, in held-out bits per byte.

    ``against_baseline`` has every other arm; ``against_before`` every arm, compared with the
    untrained student; ``pairs`` what else was asked for; ``combined`` each arm of several teachers
    with the better of its parts.
    ``original`` is the teacher that the student was made from, if there is a gap to it.
    """

    run: str
    seeds: tuple[int, ...]
    num_steps: int
    global_batch: int
    num_documents: int
    held_out_bytes: int
    before: float
    teachers: dict[str, float]
    original: str | None
    arms: tuple[ArmResult, ...]
    against_before: tuple[Difference, ...]
    against_baseline: tuple[Difference, ...]
    pairs: tuple[Difference, ...]
    combined: tuple[Difference, ...]


def as_data(results: Results) -> dict[str, Any]:
    """Plain data; each difference also has its interval over seeds and its verdict."""
    data = asdict(results)
    for name in ("against_before", "against_baseline", "pairs", "combined"):
        data[name] = [
            asdict(d) | {"interval_over_seeds": d.over_seeds.interval, "verdict": d.verdict.value}
            for d in getattr(results, name)
        ]
    return data


def results_of(
    experiment: ExperimentConfig, trials: Sequence[Trial], outcomes: Outcomes
) -> Results:
    """Compare the finished trainings.

    Raises:
        ConfigError: two arms that are to be compared have no seed in common.
    """
    configs = {trial.arm: trial.config for trial in trials}
    scores: dict[str, BySeed] = {name: {} for name in (arm.name for arm in experiment.arms)}
    for trial in trials:
        scores[trial.arm][trial.seed] = outcomes[trial.arm, trial.seed].after
    some = next(iter(outcomes.values()))
    untrained = {seed: some.before for seed in dict.fromkeys(trial.seed for trial in trials)}
    base, config = experiment.baseline, trials[0].config
    combined = _default_pairs(configs, scores) if experiment.comparisons is None else ()
    before, teachers = bits_per_byte(some.before), _teachers(outcomes)
    original = _original(configs.values(), before, teachers)
    ends = None if original is None else (before, teachers[original])
    return Results(
        run=experiment.run,
        seeds=tuple(untrained),
        num_steps=config.train.max_steps,
        global_batch=config.train.global_batch,
        num_documents=len(some.after),
        held_out_bytes=sum(row.num_bytes for row in some.after),
        before=before,
        teachers=teachers,
        original=original,
        arms=tuple(_arm(name, configs[name], scores[name], outcomes, ends) for name in scores),
        against_before=tuple(
            difference(name, BEFORE_TRAINING, rows, untrained) for name, rows in scores.items()
        ),
        against_baseline=tuple(
            _difference(name, base, scores) for name in scores if base not in (None, name)
        ),
        pairs=tuple(_difference(a, b, scores) for a, b in experiment.comparisons or ()),
        combined=tuple(_difference(arm, part, scores) for arm, part in combined),
    )


def _difference(arm: str, other: str, scores: Mapping[str, BySeed]) -> Difference:
    try:
        return difference(arm, other, scores[arm], scores[other])
    except ValueError as error:
        raise ConfigError(f"seeds: {error}") from error


def _teachers(outcomes: Outcomes) -> dict[str, float]:
    rows = {name: s for outcome in outcomes.values() for name, s in outcome.teachers.items()}
    return {name: bits_per_byte(scores) for name, scores in rows.items()}


def _original(
    configs: Iterable[RunConfig], before: float, teachers: Mapping[str, float]
) -> str | None:
    """The teacher that the student was made from; None also if nothing was lost."""
    names = (name for config in configs if (name := original_of(config)) is not None)
    return next((name for name in names if teachers[name] < before), None)


def _arm(
    name: str,
    config: RunConfig,
    scores: BySeed,
    outcomes: Outcomes,
    ends: tuple[float, float] | None,
) -> ArmResult:
    """``ends`` are the bits per byte before training and of the original, if there is one."""
    bits = {seed: bits_per_byte(rows) for seed, rows in scores.items()}
    gaps = [gap_recovered(ends[0], value, ends[1]) for value in bits.values()] if ends else []
    tallies = [outcomes[name, seed].tally for seed in scores]
    shares: dict[str, float] = {}
    measured = sum(tally.num_shares for tally in tallies)
    for tally in tallies:
        for source, total in tally.shares.items():
            shares[source] = shares.get(source, 0.0) + total / measured
    return ArmResult(
        name=name,
        methods={t.name: [entry.name for entry in t.methods] for t in config.teachers},
        ce_weight=config.mixture.ce_weight,
        learning_rate=config.train.learning_rate,
        bits_per_byte=bits,
        mean=mean_of(list(bits.values())),
        gap_recovered=mean_of(gaps) if gaps else None,
        gradient_share=shares,
        training_s=math.fsum(tally.seconds for tally in tallies) / len(tallies),
    )


def _default_pairs(
    configs: Mapping[str, RunConfig], scores: Mapping[str, BySeed]
) -> tuple[tuple[str, str], ...]:
    """Each arm of several teachers with the best of its parts, by the mean over common seeds.

    Arms that do not share a seed with all their parts are left out.
    """
    found = []
    for name, config in configs.items():
        parts = [other for other in configs if is_part(configs[other], config)]
        seeds = [s for s in scores[name] if all(s in scores[part] for part in parts)]
        means = {
            part: mean_of([bits_per_byte(scores[part][seed]) for seed in seeds]).value
            for part in parts
            if seeds
        }
        if means:
            found.append((name, min(means, key=means.__getitem__)))
    return tuple(found)


def is_part(part: RunConfig, whole: RunConfig) -> bool:
    """True if an arm has some but not all teachers of another, in the same way beside CE.

    Schemes of weights may differ: most of them need two teachers. Where targets are combined, a
    teacher's weight is its share of them, so there it may differ as well.
    """
    combined = whole.mixture.ensemble is not None
    ours = {t.name: _unweighted(t) if combined else t for t in part.teachers}
    theirs = {t.name: _unweighted(t) if combined else t for t in whole.teachers}
    return (
        0 < len(ours) < len(theirs)
        and all(theirs.get(name) == teacher for name, teacher in ours.items())
        and part.mixture.ce_weight == whole.mixture.ce_weight
        and part.mixture.normalize == whole.mixture.normalize
    )


def _unweighted(teacher: TeacherConfig) -> TeacherConfig:
    methods = tuple(entry.model_copy(update={"weight": 1.0}) for entry in teacher.methods)
    return teacher.model_copy(update={"weight": 1.0, "methods": methods})
