"""The results of an experiment as Markdown: tables, and a plain sentence on every combination."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from orchestrator.atomic import atomic_write_text
from orchestrator.experiment.results import ArmResult, Results, as_data
from orchestrator.experiment.statistics import Difference, Mean, Verdict

COUNTS = {2: "Two", 3: "Three", 4: "Four"}


def save_results(results: Results, folder: Path) -> None:
    """Write ``experiment.json`` and ``table.md``."""
    atomic_write_text(folder / "experiment.json", json.dumps(as_data(results), indent=1) + "\n")
    atomic_write_text(folder / "table.md", table(results))


def table(results: Results) -> str:
    """The whole page."""
    return "\n".join(line for part in _parts(results) for line in (*part, ""))


def _parts(results: Results) -> Iterator[Sequence[str]]:
    yield [
        f"{results.num_steps} steps of {results.global_batch} documents; bits per byte on "
        f"{results.num_documents} held-out documents ({results.held_out_bytes:,} bytes), lower is "
        "better. ± is the standard error over the seeds, which differ in the order of documents."
    ]
    if results.original is not None:
        yield [
            "Gap recovered is (before − after) / (before − original); the original is *teacher "
            f"{results.original}*."
        ]
    yield _arms(results)
    if results.against_baseline:
        yield _differences("against the baseline", results.against_baseline)
    if differences := [*results.combined, *results.pairs]:
        yield _differences("against each other", differences)
    yield [
        "Intervals hold 95 %: over seeds by Student's t, over documents by a bootstrap of the "
        "seeds' sum. A lead counts only if both are clear of 0; with one seed, the second."
    ]
    if alone := [d for d in results.against_before if not _arm(results, d.arm).ce_weight]:
        yield [_fall(d, results) for d in alone]
    if sentences := [sentence(d, results) for d in results.combined]:
        yield [f"- {text}" for text in sentences]


def _arms(results: Results) -> list[str]:
    gap = [] if results.original is None else ["gap recovered"]
    seeds = [f"seed {seed}" for seed in results.seeds]
    heads = ["arm", *seeds, "mean", *gap, "learning rate", "share"]
    rest = ["" for _ in (*gap, "learning rate", "share")]
    rows = [["before training", *("" for _ in seeds), f"{results.before:.4f}", *rest]]
    for arm in results.arms:
        cells = [f"{b:.4f}" if (b := arm.bits_per_byte.get(s)) else "" for s in results.seeds]
        rate = f"{arm.learning_rate:.3g}"
        rows.append([f"`{arm.name}`", *cells, _mean(arm.mean), *_gap(arm), rate, _shares(arm)])
    for name, bits in results.teachers.items():
        rows.append([f"*teacher {name}*", *("" for _ in seeds), f"{bits:.4f}", *rest])
    return _markdown(heads, rows)


def _gap(arm: ArmResult) -> list[str]:
    """One cell, or none where no arm has it."""
    if (gap := arm.gap_recovered) is None:
        return []
    spread = "" if gap.standard_error is None else f" ± {gap.standard_error:.1%}"
    return [f"{gap.value:.1%}{spread}"]


def _shares(arm: ArmResult) -> str:
    return ", ".join(f"{name} {share:.0%}" for name, share in arm.gradient_share.items())


def _differences(title: str, differences: Sequence[Difference]) -> list[str]:
    heads = [title, "lead", "95 % over seeds", "95 % over documents", "verdict"]
    rows = []
    for found in differences:
        interval = found.over_seeds.interval
        rows.append(
            [
                f"`{found.arm}` − `{found.other}`",
                _signed(found.over_seeds),
                _interval(*interval) if interval else "one seed",
                _interval(found.over_documents.low, found.over_documents.high),
                found.verdict.value,
            ]
        )
    return _markdown(heads, rows)


def _fall(found: Difference, results: Results) -> str:
    """What an arm without cross-entropy made of the untrained student."""
    after = results.before - found.over_seeds.value
    words = {
        Verdict.BETTER: "fall",
        Verdict.WORSE: "rise",
        Verdict.UNCLEAR: "do not clearly change",
    }
    documents = _interval(found.over_documents.low, found.over_documents.high)
    return (
        f"- Without cross-entropy, `{found.arm}`: held-out bits per byte {words[found.verdict]}, "
        f"{results.before:.4f} to {after:.4f} (fall over documents {documents})."
    )


def sentence(found: Difference, results: Results) -> str:
    """Whether the teachers together are better than the better one of them."""
    count = len(_arm(results, found.arm).methods)
    together = f"{COUNTS.get(count, str(count))} teachers (`{found.arm}`)"
    lead, seeds = found.over_seeds, len(found.seeds)
    spread = "" if lead.standard_error is None else f" ± {lead.standard_error:.4f}"
    size = f"{abs(lead.value):.4f}{spread} bits per byte"
    over = f"over {seeds} seed{'s' if seeds > 1 else ''}"
    if found.verdict is Verdict.UNCLEAR:
        return (
            f"{together} and the better one (`{found.other}`) are not distinguishable: a "
            f"difference of {lead.value:+.4f}{spread} bits per byte {over}."
        )
    verdict = found.verdict.value
    return f"{together} are {verdict} than the better one (`{found.other}`) by {size} {over}."


def _arm(results: Results, name: str) -> ArmResult:
    return next(arm for arm in results.arms if arm.name == name)


def _mean(mean: Mean) -> str:
    spread = "" if mean.standard_error is None else f" ± {mean.standard_error:.4f}"
    return f"{mean.value:.4f}{spread}"


def _signed(mean: Mean) -> str:
    return f"{'+' if mean.value > 0 else ''}{_mean(mean)}"


def _interval(low: float, high: float) -> str:
    return f"{low:+.4f} to {high:+.4f}"


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [heads, ["---"] * len(heads), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]
