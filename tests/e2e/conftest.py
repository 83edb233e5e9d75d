"""One undisturbed run of the smoke file, the program as a process of its own, one shared Ray."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

HOLD_RAY = """
import sys
import ray
ray.init(address="local", num_cpus=8, include_dashboard=False, _node_ip_address="127.0.0.1")
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""
"""Ray lives as long as this process, and this process as long as we do."""

SERVER_KEY = "a-key-that-nobody-may-see"
"""Actors find it where Ray was started, under its own name."""

KEPT_STEPS = 12
"""The smoke run keeps a checkpoint of so many steps."""


def alone() -> dict[str, str]:
    """The environment of a process that starts its own Ray."""
    return {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}


class Program:
    """``tutelage train smoke.yaml``: started, stopped, and what it has written."""

    root = Path(__file__).parents[2]
    code = "from orchestrator.cli import main; main()"
    patience_s = 600.0

    def start(self, folder: Path, *more: str, ray: str | None = None) -> subprocess.Popen[str]:
        """With these overrides and options, on the Ray at that address or on its own."""
        overrides = ["train.save_steps=2", f"output_dir={folder}", *more]
        return subprocess.Popen(
            [sys.executable, "-c", self.code, "train", "smoke.yaml", *overrides],
            cwd=self.root,
            env=alone() | ({"RAY_ADDRESS": ray} if ray else {}),
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self, process: subprocess.Popen[str]) -> str:
        """Its messages, when it ends well."""
        _, errors = process.communicate(timeout=self.patience_s)
        assert process.returncode == 0, errors
        return errors

    def stop_at(self, process: subprocess.Popen[str], arm: Path, step: int, signum: int) -> str:
        """Send a signal once the arm has written this step and one that is new; wait for the end.

        Gives its messages.
        """
        deadline = time.monotonic() + self.patience_s
        step = max([step, *(row["step"] + 1 for row in self.rows_of(arm))])
        while step not in [row["step"] for row in self.rows_of(arm)]:
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signum)
        return process.communicate(timeout=self.patience_s)[1]

    def rows_of(self, arm: Path) -> list[dict[str, Any]]:
        """Metrics of each step that is written whole."""
        path = arm / "metrics.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def numbers_of(self, arm: Path) -> list[tuple[float, ...]]:
        """Those of the metrics that are no times."""
        names = ("step", "loss", "grad_norm", "learning_rate", "num_tokens")
        return [tuple(row[name] for name in names) for row in self.rows_of(arm)]


@pytest.fixture(scope="session")
def program() -> Program:
    return Program()


@pytest.fixture(scope="session")
def ray_address() -> Iterator[str]:
    """Where one Ray answers that all runs may join; starting it anew takes ten seconds each."""
    options = {"RAY_prestart_worker_first_driver": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    options |= {"SERVER_KEY": SERVER_KEY}
    with subprocess.Popen(
        [sys.executable, "-c", HOLD_RAY],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=alone() | options,
    ) as holder:
        address = holder.stdout.readline().strip()
        assert address, "Ray did not start"
        yield address


@pytest.fixture
def server_key() -> str:
    return SERVER_KEY


@pytest.fixture(scope="module")
def shared_ray(ray_address: str) -> Iterator[None]:
    """The runs of a file join one Ray instead of starting their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ADDRESS", ray_address)
        yield


@pytest.fixture(scope="session")
def opened_signals() -> list[str]:
    """Names of signals that this process deserialised; the driver must open none."""
    return []


@pytest.fixture(scope="session")
def smoke(tmp_path_factory, opened_signals):
    """The shipped smoke run on its own Ray, from a folder that would shadow our packages."""
    from losses.signals import Signal
    from orchestrator.config import load_run
    from orchestrator.run import train

    home = tmp_path_factory.mktemp("user")
    (home / "losses").mkdir()
    (home / "losses" / "__init__.py").write_text("raise ImportError('the user has this')\n")
    # Ray refuses to ship a working folder above 512 MiB: it must not see this one.
    with (home / "large.bin").open("wb") as large:
        large.truncate(600 * 2**20)

    def note(self, state):
        opened_signals.append(type(self).__name__)
        self.__dict__.update(state)

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setattr(Signal, "__setstate__", note, raising=False)
        overrides = ["output_dir=runs/smoke", f"train.save_steps={KEPT_STEPS}"]
        summary = train(load_run("smoke.yaml", overrides))
    return summary, home / "runs" / "smoke"
