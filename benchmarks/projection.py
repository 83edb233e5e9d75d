"""Time and memory to build W, and what it covers, for pairs of real tokenizers.

``python -m benchmarks.projection [STUDENT TEACHER]``: asset names or folders. Each pair runs in a
process of its own, so that memory is that of one pair.
"""

import json
import resource
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from benchmarks.table import show
from losses.alignment.coverage import measure_coverage
from losses.alignment.projection import ProjectionOptions
from losses.alignment.projection_build import build_projection
from orchestrator.assets import resolve
from teachers.inside import encode_inside
from teachers.source import ModelSource
from teachers.tokenizer import Tokenizer

PAIRS = [
    ("asset:tokenizers/llama-3", "asset:tokenizers/qwen-3"),
    ("asset:tokenizers/qwen-3", "asset:tokenizers/llama-3"),
    ("asset:tokenizers/llama-3", "asset:tokenizers/mistral-v1"),
    ("asset:smollm2-135m-instruct", "asset:gemma-3-270m"),
    ("asset:gemma-3-270m", "asset:smollm2-135m-instruct"),
]
SINGLE = "--single"
MEBIBYTE = 1024


def main() -> None:
    """Print a row a pair; pairs whose assets are not fetched are left out by name."""
    arguments = sys.argv[1:]
    if arguments[:1] == [SINGLE]:
        print(json.dumps(measure(*arguments[1:])))
        return
    pairs = [(arguments[0], arguments[1])] if len(arguments) == 2 else PAIRS
    rows = []
    for pair in pairs:
        try:
            folders = [folder_of(name) for name in pair]
        except FileNotFoundError as error:
            print(f"left out: {error}")
            continue
        command = [sys.executable, "-m", "benchmarks.projection", SINGLE, *folders]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        names = " x ".join(name.removeprefix("asset:").removeprefix("tokenizers/") for name in pair)
        rows.append({"pair": names} | json.loads(done.stdout.splitlines()[-1]))
    if rows:
        show("Building W (student x teacher)", rows)


def folder_of(name: str) -> str:
    """An asset's folder, or the folder itself."""
    return str(resolve(name) if name.startswith("asset:") else Path(name).absolute())


def measure(student_folder: str, teacher_folder: str) -> dict[str, object]:
    """One pair: CPU seconds of all threads, MiB of the process before and at the peak."""
    student, teacher = (
        Tokenizer.load(ModelSource(folder), Path(folder).name)
        for folder in (student_folder, teacher_folder)
    )
    before, seconds = peak(), []
    encoders = [partial(encode_inside, tokenizer) for tokenizer in (teacher, student)]
    for options in (ProjectionOptions(), ProjectionOptions(reverse=True)):
        start = time.process_time()
        built = build_projection(
            student.vocabulary, teacher.vocabulary, encoders[0], options, encoders[1]
        )
        seconds.append(time.process_time() - start)
        if not options.reverse:
            projection, after = built, peak()
    found = measure_coverage(student.vocabulary, teacher.vocabulary, projection).total
    return {
        "ids": f"{found.student:,} x {found.teacher:,}",
        "CPU s": f"{seconds[0]:.1f}",
        "with reverse": f"{seconds[1]:.1f}",
        "tokenizers MiB": f"{before:.0f}",
        "peak MiB": f"{after:.0f}",
        "weights": f"{len(projection.weights):,}",
        "exact": f"{found.exact:,}",
        "split": f"{found.split:,}",
        "empty": f"{found.empty:,}",
    }


def peak() -> float:
    """The largest resident memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MEBIBYTE


if __name__ == "__main__":
    main()
