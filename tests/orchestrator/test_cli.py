"""The command line: exit codes, what is printed, and no traceback for what a user can mend."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
from typer.testing import CliRunner, Result

from losses.methods import method_names
from orchestrator.cli import app
from orchestrator.config import load_run, parse_run
from orchestrator.config.json_schema import json_schema
from orchestrator.config.shipped import (
    shipped_experiments,
    shipped_hypernetworks,
    shipped_run_files,
)
from orchestrator.config.yaml_text import parse_yaml
from orchestrator.errors import (
    EXIT_CODES,
    ConfigError,
    ResourcesError,
    TrainingDiverged,
    WorkerLost,
)

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.usefixtures("log_levels")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def stand_in(monkeypatch: pytest.MonkeyPatch, name: str, **members: object) -> None:
    """Put a module in the place of one that loads models."""
    module = ModuleType(name)
    vars(module).update(members)
    monkeypatch.setitem(sys.modules, name, module)


class TestTrain:
    """`tutelage train`, with the run itself replaced."""

    def train(self, monkeypatch: pytest.MonkeyPatch, outcome: object, *arguments: str) -> Result:
        def record(config: object, *, overwrite: bool, resume: bool) -> object:
            if isinstance(outcome, Exception):
                raise outcome
            asked = f"overwrite {overwrite}, resume {resume}"
            return f"{config.train.max_steps} steps, {asked}, {outcome}"

        stand_in(monkeypatch, "orchestrator.run", train=record)
        stand_in(monkeypatch, "orchestrator.report", final_table=lambda summary: summary)
        return run("train", "smoke.yaml", *arguments)

    def test_prints_the_table(self, monkeypatch: pytest.MonkeyPatch):
        result = self.train(monkeypatch, "done", "train.max_steps=3", "--overwrite")
        assert (result.exit_code, result.stdout) == (
            0,
            "3 steps, overwrite True, resume False, done\n",
        )

    def test_resume(self, monkeypatch: pytest.MonkeyPatch):
        assert "overwrite False, resume True" in self.train(monkeypatch, "x", "--resume").stdout
        both = self.train(monkeypatch, "x", "--resume", "--overwrite")
        assert both.exit_code == 2
        assert "exclude each other" in both.stderr

    @pytest.mark.parametrize(
        ("error", "code"),
        [
            (ConfigError("bad"), 2),
            (ValueError("bad"), 2),
            (ResourcesError("bad"), 3),
            (TrainingDiverged("bad"), 4),
            (WorkerLost("bad"), 5),
            (FileExistsError("bad"), 1),
        ],
    )
    def test_exit_codes(self, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int):
        result = self.train(monkeypatch, error)
        assert (result.exit_code, result.stderr, result.stdout) == (code, "error: bad\n", "")

    def test_a_bug_shows_its_traceback(self, monkeypatch: pytest.MonkeyPatch):
        result = self.train(monkeypatch, RuntimeError("a bug"))
        assert result.exit_code == 1
        assert isinstance(result.exception, RuntimeError)

    def test_verbose_logs_the_traceback(self, caplog: pytest.LogCaptureFixture):
        assert run("--verbose", "show", "absent.yaml").exit_code == 2
        assert "Traceback" in caplog.text

    def test_help_lists_every_exit_code(self):
        text = " ".join(run("--help").stdout.split())
        for code in [*EXIT_CODES.values(), 1]:
            assert f"{code} " in text.partition("Exit codes:")[2]


class TestConfigErrors:
    """A wrong run file ends with code 2 and the problems, before anything is loaded."""

    @pytest.mark.parametrize("command", ["train", "validate", "show"])
    def test_unknown_key(self, command: str):
        result = run(command, "smoke.yaml", "train.max_step=3")
        assert result.exit_code == 2
        assert result.stderr == (
            f"error: {ROOT / 'configs' / 'smoke.yaml'}: 1 problem\n"
            '  train.max_step: unknown key, did you mean "max_steps"?\n'
        )
        assert "Traceback" not in result.output

    def test_absent_file(self):
        result = run("train", "absent.yaml")
        assert result.exit_code == 2
        assert result.stderr.startswith("error: absent.yaml: no such file; expected a run file")
        assert "quickstart.yaml, smoke.yaml" in result.stderr

    def test_no_traceback_from_the_program(self):
        """The real process: what ``main`` leaves to Python's own handler would show here."""
        code = "from orchestrator.cli import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", code, "show", "smoke.yaml", "student.dtype=float16"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2
        assert done.stdout == ""
        assert done.stderr.splitlines()[1:] == [
            '  student.dtype: "float16" is not allowed; expected "float32" or "bfloat16"'
        ]


class TestCommands:
    """The other commands, each with what it calls replaced where that loads models."""

    def test_show_prints_a_run_file(self):
        result = run("show", "smoke.yaml", "train.seed=7")
        assert result.exit_code == 0
        assert parse_run(parse_yaml(result.stdout, "x")) == load_run("smoke.yaml", ["train.seed=7"])

    def test_validate_prints_lines(self, monkeypatch: pytest.MonkeyPatch):
        def check(config: object, *, strict: bool) -> Iterator[str]:
            yield f"strict {strict}"
            yield "warning: something"

        stand_in(monkeypatch, "orchestrator.validation", validate=check)
        result = run("validate", "smoke.yaml")
        assert (result.stdout, result.stderr) == ("strict False\n", "warning: something\n")
        assert run("validate", "smoke.yaml", "--strict").stdout == "strict True\n"

    def test_export(self, monkeypatch: pytest.MonkeyPatch):
        @dataclass(frozen=True)
        class Result:
            arguments: str

        stand_in(
            monkeypatch,
            "orchestrator.export",
            export=lambda *given, keep_padding: Result(", ".join(map(str, [*given, keep_padding]))),
        )
        assert (
            run("export", "run/final", "out").stdout == "arguments  run/final, out, None, False\n"
        )
        result = run("export", "run/final", "out", "--dtype", "bfloat16", "--json")
        assert json.loads(result.stdout) == {"arguments": "run/final, out, bfloat16, False"}
        result = run("export", "run/final", "out", "--keep-padding")
        assert result.stdout.endswith(", True\n")
        assert run("export", "run/final", "out", "--dtype", "int8").exit_code == 2

    def test_methods(self):
        found = json.loads(run("methods", "--json").stdout)
        assert [entry["name"] for entry in found] == method_names()
        keys = {"name", "description", "source", "unit", "bytes_per_token", "needs", "options"}
        assert all(entry.keys() == keys for entry in found)
        text = run("methods").stdout
        for entry in found:
            assert f"name             {entry['name']}\n" in text
            assert f"bytes_per_token  {entry['bytes_per_token']}\n" in text
        assert "  temperature: a number, above 0; default 1.0\n      divides both" in text

    def test_schema(self):
        assert json.loads(run("schema").stdout) == json_schema()

    def test_evaluate(self, monkeypatch: pytest.MonkeyPatch):
        @dataclass(frozen=True)
        class Result:
            bits_per_byte: float
            by_data_set: dict[str, float]
            num_bytes: int

        calls = []

        def evaluate_model(model: str, data: list[str], **options: object) -> Result:
            calls.append((model, data, options))
            return Result(0.75, {"a.jsonl": 0.5}, 12)

        stand_in(monkeypatch, "orchestrator.evaluation", evaluate_model=evaluate_model)
        result = run("evaluate", "m", "a.jsonl", "b.jsonl", "--max-length", "64", "--json")
        options = {"max_length": 64, "dtype": "float32", "device": "cpu"}
        assert calls == [("m", ["a.jsonl", "b.jsonl"], options)]
        assert json.loads(result.stdout)["bits_per_byte"] == 0.75
        assert run("evaluate", "m", "a.jsonl").stdout == (
            "bits_per_byte  0.7500\nby_data_set    a.jsonl 0.5000\nnum_bytes      12\n"
        )

    @pytest.mark.parametrize(("arguments", "names"), [((), None), (("gsm8k",), ["gsm8k"])])
    def test_assets(self, monkeypatch: pytest.MonkeyPatch, arguments: tuple, names: object):
        def fetch_all(report: object, wanted: object) -> None:
            report(f"fetched {wanted}")

        monkeypatch.setattr("orchestrator.assets.fetch_all", fetch_all)
        assert run("assets", *arguments).stdout == f"fetched {names}\n"

    def test_assets_that_cannot_be_fetched(self, monkeypatch: pytest.MonkeyPatch):
        from orchestrator.assets.packages import AssetError

        def fetch_all(report: object, wanted: object) -> None:
            raise AssetError("no network")

        monkeypatch.setattr("orchestrator.assets.fetch_all", fetch_all)
        result = run("assets")
        assert (result.exit_code, result.stderr) == (1, "error: no network\n")

    def test_env(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
        monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path))
        found = json.loads(run("env", "--json").stdout)
        assert found["cache_folder"] == str(tmp_path)
        assert found["python"] == ".".join(map(str, sys.version_info[:3]))
        assert found["num_cpus"] >= 1
        assert {"torch", "transformers", "ray", "deepspeed", "cuda_devices"} <= found.keys()
        assert f"cache_folder  {tmp_path}" in run("env").stdout


class TestInit:
    """`tutelage init`."""

    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.chdir(tmp_path)
        return tmp_path

    def test_lists_recipes(self):
        lines = run("init").stdout.splitlines()
        assert [line.split()[0] for line in lines] == [
            name.removesuffix(".yaml")
            for name in [*shipped_run_files(), *shipped_experiments(), *shipped_hypernetworks()]
        ]
        (smoke,) = (line for line in lines if line.split()[0] == "smoke")
        assert "  The smallest real run: two toy teachers with different" in smoke

    @pytest.mark.parametrize("name", ["smoke", "smoke.yaml"])
    def test_copies_into_the_current_folder(self, folder: Path, name: str):
        result = run("init", name)
        assert (result.exit_code, result.stdout) == (0, "smoke.yaml\n")
        assert (folder / "smoke.yaml").read_bytes() == (ROOT / "configs/smoke.yaml").read_bytes()

    def test_copies_to_a_path_or_into_a_folder(self, folder: Path):
        assert run("init", "smoke", "mine.yaml").stdout == "mine.yaml\n"
        (folder / "runs").mkdir()
        assert run("init", "smoke", "runs").stdout == "runs/smoke.yaml\n"
        assert load_run("mine.yaml") == load_run("runs/smoke.yaml")

    def test_never_overwrites(self, folder: Path):
        (folder / "smoke.yaml").write_text("mine")
        result = run("init", "smoke")
        assert result.exit_code == 1
        assert result.stderr == "error: smoke.yaml exists already; name another file\n"
        assert (folder / "smoke.yaml").read_text() == "mine"

    def test_unknown_recipe(self):
        result = run("init", "smok")
        assert result.exit_code == 2
        assert result.stderr == 'error: no recipe "smok", did you mean "smoke"?\n'
        told = run("init", "x").stderr
        assert "; there are: " in told
        assert " quickstart, smoke, " in told

    def test_folder_that_does_not_exist(self):
        result = run("init", "smoke", "none/smoke.yaml")
        assert result.exit_code == 1
        assert "No such file or directory" in result.stderr


COMMANDS = sorted(command.callback.__name__ for command in app.registered_commands)

HEAVY = ("torch", "ray", "transformers", "deepspeed", "numpy", "yaml", "orchestrator.config")
"""typer itself imports pydantic where it finds it."""


class TestHelp:
    """``--help`` answers at once."""

    def test_every_command_is_known_here(self):
        expected = "assets env evaluate export init methods schema show train validate"
        assert set(expected.split()) <= set(COMMANDS)

    def test_imports_nothing_heavy(self):
        code = (
            "import sys\n"
            "from typer.testing import CliRunner\n"
            "from orchestrator.cli import app\n"
            f"for command in [[], *([name] for name in {COMMANDS})]:\n"
            "    assert CliRunner().invoke(app, [*command, '--help']).exit_code == 0\n"
            f"print([name for name in {HEAVY} if name in sys.modules])\n"
        )
        assert self.output(code) == "[]\n"

    def test_takes_no_time(self):
        """0.6 s are promised; the margin is for a busy machine, whose CPU time counts here."""
        code = (
            "import resource, sys\n"
            "from orchestrator.cli import main\n"
            "sys.argv[1:] = ['--help']\n"
            "try:\n"
            "    main()\n"
            "except SystemExit:\n"
            "    used = resource.getrusage(resource.RUSAGE_SELF)\n"
            "    print(used.ru_utime + used.ru_stime)\n"
        )
        assert float(self.output(code).splitlines()[-1]) < 1.5

    def output(self, code: str) -> str:
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        return done.stdout


def test_the_page_on_the_command_line_is_complete():
    page = (ROOT / "docs" / "cli.md").read_text()
    assert [name for name in COMMANDS if f"| `tutelage {name}" not in page] == []
    assert [code for code in EXIT_CODES.values() if f"\n| {code} | " not in page] == []
