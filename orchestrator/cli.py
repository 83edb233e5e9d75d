"""The command line. Thin: each command reads its arguments, calls one function and prints.

Torch, Ray and the rest are imported inside the commands, so that ``--help`` answers at once.
"""

import atexit
import gc
import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from orchestrator.ensemble_command import ensemble
from orchestrator.evaluate_command import EvaluateCommand, evaluate
from orchestrator.explained import explained, interruptible
from orchestrator.hypernetwork.command import hypernet
from orchestrator.methods_command import methods
from orchestrator.planning.command import plan
from orchestrator.printing import print_fields
from orchestrator.signal_cache.command import capture

EXIT_CODES_HELP = (
    "Exit codes: 2 the run file or its data is wrong, 3 resources are not available, "
    "4 training diverged, 5 a worker or teacher was lost, 1 anything else."
)

app = typer.Typer(
    name="tutelage",
    help="Distil many teachers into one student, whatever their tokenizers.",
    epilog=EXIT_CODES_HELP,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

RunFile = Annotated[
    str, typer.Argument(metavar="RUN.yaml", help="A run file, or the name of a shipped one.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Set keys: train.max_steps=20, teachers.NAME.weight=0.3, teachers=[].",
    ),
]
ExperimentFile = Annotated[
    str,
    typer.Argument(metavar="EXPERIMENT.yaml", help="An experiment, or the name of a shipped one."),
]
ExperimentOverrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Set keys: seeds=[0], arms.NAME.seeds=[0,1]."),
]
AssetNames = Annotated[list[str] | None, typer.Argument(metavar="NAME", help="All by default.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Move what output_dir holds aside; start anew.")
]
Dtype = Literal["float32", "bfloat16"]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.callback()
def _options(
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Log more, and tracebacks of errors.")
    ] = False,
) -> None:
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    for package in ("orchestrator", "teachers", "losses"):
        logging.getLogger(package).setLevel(logging.DEBUG if verbose else logging.INFO)


def _refuse_both(overwrite: bool, resume: bool) -> None:
    if overwrite and resume:
        raise typer.BadParameter("--overwrite and --resume exclude each other")


@app.command()
def train(
    run_file: RunFile,
    overrides: Overrides = None,
    overwrite: Overwrite = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in output_dir where it was saved.")
    ] = False,
) -> None:
    """Distil the teachers into the student, and compare on held-out text.

    SIGTERM or Ctrl-C finishes the step, saves, and exits with 128 plus the signal's number.
    """
    _refuse_both(overwrite, resume)
    with explained():
        from orchestrator.config import load_run

        config = load_run(run_file, overrides or [])
        from orchestrator.report import final_table
        from orchestrator.run import train as run_training

        with interruptible():
            summary = run_training(config, overwrite=overwrite, resume=resume)
        Console().print(final_table(summary), soft_wrap=True)


@app.command()
def experiment(
    file: ExperimentFile,
    overrides: ExperimentOverrides = None,
    overwrite: Overwrite = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the experiment in output_dir.")
    ] = False,
) -> None:
    """Train several arms over paired seeds, and compare them on held-out text.

    SIGTERM or Ctrl-C finishes the step, saves, and exits with 128 plus the signal's number.
    """
    _refuse_both(overwrite, resume)
    with explained():
        from orchestrator.config import load_experiment

        config = load_experiment(file, overrides or [])
        from rich.markdown import Markdown

        from orchestrator.experiment.run import run_experiment
        from orchestrator.experiment.table import table

        with interruptible():
            results = run_experiment(config, overwrite=overwrite, resume=resume)
        Console().print(Markdown(table(results)))


@app.command()
def validate(
    run_file: RunFile,
    overrides: Overrides = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail where it would only warn.")
    ] = False,
) -> None:
    """Check all but the weights: run file, paths, data, tokenizers, methods on their pairs.

    Warns of assets that are not fetched yet, and checks the rest.
    """
    with explained():
        from orchestrator.config import load_run

        config = load_run(run_file, overrides or [])
        from orchestrator.validation import validate as check

        atexit.register(gc.freeze)  # nothing is left to write; looking for garbage takes a second
        for line in check(config, strict=strict):
            typer.echo(line, err=line.startswith("warning:"))


@app.command()
def prepare(run_file: RunFile, overrides: Overrides = None) -> None:
    """Build the projection W for every teacher; print what it covers and which loss to take."""
    with explained():
        from orchestrator.config import load_run

        config = load_run(run_file, overrides or [])
        from orchestrator.coverage_report import coverage_report
        from orchestrator.prepare import prepare as prepare_pairs

        for pair in prepare_pairs(config):
            Console().print(coverage_report(pair), soft_wrap=True)


@app.command()
def init(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="A recipe; without it they are listed.")
    ] = None,
    path: Annotated[
        Path | None, typer.Argument(metavar="[PATH]", help="New file, or folder for it.")
    ] = None,
) -> None:
    """Copy a run file that comes with tutelage, to change it. Never overwrites."""
    with explained():
        from orchestrator.recipes import copy_recipe, recipes

        if name is not None:
            typer.echo(copy_recipe(name, path))
            return
        print_fields({recipe.name: recipe.purpose for recipe in recipes()}, as_json=False)


@app.command()
def show(run_file: RunFile, overrides: Overrides = None) -> None:
    """Print the run file with overrides and defaults filled in."""
    with explained():
        from orchestrator.config import load_run, to_yaml

        typer.echo(to_yaml(load_run(run_file, overrides or [])), nl=False)


app.command(cls=EvaluateCommand)(evaluate)
app.add_typer(hypernet)
app.command()(ensemble)
app.command()(capture)
app.command()(methods)
app.command()(plan)


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(help="OUTPUT_DIR/final or /checkpoint-N.")],
    target: Annotated[Path, typer.Argument(help="New folder.")],
    dtype: Annotated[
        Dtype | None, typer.Option(help="Number format of weights; theirs by default.")
    ] = None,
    keep_padding: Annotated[
        bool, typer.Option("--keep-padding", help="Keep rows of embeddings that no token has.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write model, tokenizer, generation settings and a model card for ``from_pretrained``."""
    with explained():
        from orchestrator.export import export as write

        result = write(checkpoint, target, dtype, keep_padding=keep_padding)
        print_fields(asdict(result), as_json)


@app.command()
def transfer(
    run_file: RunFile,
    overrides: Overrides = None,
    target: Annotated[
        Path | None, typer.Option(help="New folder; OUTPUT_DIR-zero-shot by default.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write the student with its new tokenizer, untrained, to a folder for ``from_pretrained``."""
    with explained():
        from orchestrator.config import load_run

        config = load_run(run_file, overrides or [])
        from orchestrator.zero_shot import write_zero_shot

        written = write_zero_shot(config, target)
        report = asdict(written.report)
        print_fields({"folder": written.folder, **report, "num_bytes": written.num_bytes}, as_json)


@app.command()
def schema() -> None:
    """The JSON schema of the run file, for editors."""
    from orchestrator.config.json_schema import json_schema

    typer.echo(json.dumps(json_schema(), indent=2, ensure_ascii=False))


@app.command()
def assets(names: AssetNames = None) -> None:
    """Fetch the models and texts of the shipped run files, and print their licences."""
    with explained():
        from orchestrator.assets import fetch_all

        fetch_all(typer.echo, names or None)


@app.command()
def env(as_json: AsJson = False) -> None:
    """Versions, CPUs, CUDA devices and cache folder of this machine."""
    with explained():
        from orchestrator.environment import environment

        print_fields(asdict(environment()), as_json)


def main() -> None:
    """Entry point of the command ``tutelage``.

    Garbage is collected less often than Python's default: what is imported and read makes a
    million objects that stay, and looking through them takes a tenth of the time.
    """
    gc.set_threshold(50_000)
    app()
