"""The curve as a picture and as JSON."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

import numpy as np

from orchestrator.atomic import atomic_write_bytes, atomic_write_text
from orchestrator.errors import ConfigError
from orchestrator.exposure_bias.curve import Curve

ENDINGS = (".png", ".json")


def check_output(output: Path) -> None:
    """Refuse a file that could not be written in the end.

    Raises:
        ConfigError: the ending is not known, or matplotlib is needed and absent.
    """
    if output.suffix not in ENDINGS:
        raise ConfigError(
            f"--output {output}: expected a name that ends in .png (the picture, with the numbers "
            "beside it) or .json (only the numbers)"
        )
    if output.suffix == ".png" and find_spec("matplotlib") is None:
        raise ConfigError(
            f"--output {output}: a picture needs matplotlib, which is not installed; "
            "pip install 'tutelage[eval]', or write only the numbers to a .json file"
        )


def save(curve: Curve, about: Mapping[str, object], output: Path) -> list[Path]:
    """Write ``output``, and the numbers beside a picture; returns what was written.

    Args:
        curve: to draw.
        about: what is known of the measurement; goes in front of the numbers.
        output: a ``.png`` or ``.json`` file, replaced if it exists.
    """
    numbers = output.with_suffix(".json")
    entries = {name: _rounded(values) for name, values in asdict(curve).items()}
    content = {**about, "bytes": list(range(1, len(curve) + 1)), **entries}
    atomic_write_text(numbers, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    if output.suffix == ".json":
        return [numbers]
    title = f"{about['student']} against {about['teacher']}"
    atomic_write_bytes(output, draw(curve, title))
    return [output, numbers]


def _rounded(values: np.ndarray) -> list[float | int | None]:
    """Six digits; JSON has no infinity and no NaN: null."""
    if values.dtype.kind == "i":
        return list(values.tolist())
    return [float(f"{value:.6g}") if np.isfinite(value) else None for value in values.tolist()]


def draw(curve: Curve, title: str) -> bytes:
    """The curve with its interval, and below it the two sums that it compares, as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 7.0), layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True)
    lengths = np.arange(1, len(curve) + 1)
    above.axhline(0.0, color="grey", linewidth=0.8)
    above.fill_between(lengths, curve.low, curve.high, alpha=0.25, label="95 % (prompts)")
    above.plot(lengths, curve.percent, label="ExAccErr")
    above.set_ylabel("excess accumulated error (%)")
    above.set_title(title, fontsize="medium")
    below.plot(lengths, curve.student_error, label="R(l): the student's own text")
    below.plot(lengths, curve.teacher_error, "--", label="l ε(l): the teacher's text")
    below.set_ylabel("accumulated KL (nats)")
    below.set_xlabel("length l (bytes after the prompt)")
    for axes in (above, below):
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    content = BytesIO()
    figure.savefig(content, format="png", dpi=150, metadata={"Software": None})
    return content.getvalue()
