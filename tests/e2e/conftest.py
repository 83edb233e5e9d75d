"""One undisturbed run of the shipped smoke file, shared by all tests of the whole system."""

import pytest

from losses.signals import Signal
from orchestrator.config import load_run
from orchestrator.run import train


@pytest.fixture(scope="session")
def opened_signals() -> list[str]:
    """Names of signals that this process deserialised; the driver must open none."""
    return []


@pytest.fixture(scope="session")
def smoke(tmp_path_factory, opened_signals):
    """The shipped smoke run, started from a folder that would shadow our packages."""
    home = tmp_path_factory.mktemp("user")
    (home / "losses").mkdir()
    (home / "losses" / "__init__.py").write_text("raise ImportError('the user has this')\n")
    # Ray refuses to ship a working folder above 512 MiB: it must not see this one.
    with (home / "large.bin").open("wb") as large:
        large.truncate(600 * 2**20)

    def note(self, state):
        opened_signals.append(type(self).__name__)
        self.__dict__.update(state)

    patch = pytest.MonkeyPatch()
    patch.chdir(home)
    patch.setattr(Signal, "__setstate__", note, raising=False)
    try:
        summary = train(load_run("smoke.yaml", ["output_dir=runs/smoke"]))
    finally:
        patch.undo()
    return summary, home / "runs" / "smoke"
