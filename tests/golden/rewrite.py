"""Rewrite ``smoke.json``, the losses of the smoke run: ``make golden``; read the diff."""

import json
import sys
import tempfile
from pathlib import Path


def main() -> None:
    from orchestrator.config import load_run
    from orchestrator.run import train

    with tempfile.TemporaryDirectory() as folder:
        train(load_run("smoke.yaml", ["compare.ce_only=null", f"output_dir={folder}/run"]))
        lines = (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()
    golden = {
        "source": "make golden: the losses of configs/smoke.yaml, fp32 on a CPU",
        "python": f"{sys.version_info.major}.{sys.version_info.minor}",
        "losses": [round(json.loads(line)["loss"], 6) for line in lines],
    }
    target = Path(__file__).with_name("smoke.json")
    target.write_text(json.dumps(golden, indent=2) + "\n")


if __name__ == "__main__":
    main()
