"""Where a step's time goes, from the metrics of the smoke run (and of the demo, if it was run)."""

import json
import tempfile
from pathlib import Path

from benchmarks.table import show
from orchestrator.config import load_run
from orchestrator.run import train

DEMO = Path("runs/quickstart")


def main() -> None:
    """Print a row for each stage and run."""
    with tempfile.TemporaryDirectory() as folder:
        train(load_run("smoke.yaml", ["compare.ce_only=null", f"output_dir={folder}/run"]))
        rows = stage_rows("smoke", Path(folder) / "run")
    if (DEMO / "metrics.jsonl").is_file():
        rows += stage_rows("quickstart", DEMO)
    show("Seconds a step, by stage (first step left out)", rows)


def stage_rows(name: str, folder: Path) -> list[dict[str, object]]:
    """Mean seconds of each stage over a run's steps, and its part of the step."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[1:]
    steps = [json.loads(line) for line in lines]
    whole = sum(step["step_time"] for step in steps) / len(steps)
    stages = [key for key in steps[0] if key.startswith("timing/")]
    means = {key: sum(step.get(key, 0.0) for step in steps) / len(steps) for key in stages}
    means["step_time"] = whole
    return [
        {"run": name, "stage": key, "seconds": f"{value:.4f}", "part": f"{value / whole:.0%}"}
        for key, value in means.items()
    ]


if __name__ == "__main__":
    main()
