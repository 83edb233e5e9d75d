"""``tutelage hypernet train`` and ``apply``: thin, as the other commands are."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from orchestrator.explained import explained, interruptible
from orchestrator.printing import print_fields

hypernet = typer.Typer(
    name="hypernet",
    help="Train a network that predicts embeddings for any tokenizer, and apply it.",
    no_args_is_help=True,
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@hypernet.command()
def train(
    config_file: Annotated[
        str, typer.Argument(metavar="CONFIG.yaml", help="A file, or the name of a shipped one.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Set keys: train.max_steps=20."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Move what output_dir holds aside; start anew.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue in output_dir where it was saved.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train a hypernetwork for a frozen model, on vocabularies drawn from text.

    SIGTERM or Ctrl-C finishes the step, saves, and exits with 128 plus the signal's number.
    """
    if overwrite and resume:
        raise typer.BadParameter("--overwrite and --resume exclude each other")
    with explained():
        from orchestrator.hypernetwork.config import load_hypernetwork_config

        config = load_hypernetwork_config(config_file, overrides or [])
        from orchestrator.hypernetwork.train import train_hypernetwork

        with interruptible():
            summary = train_hypernetwork(config, overwrite=overwrite, resume=resume)
        print_fields(asdict(summary), as_json)


@hypernet.command()
def apply(
    hypernetwork: Annotated[
        Path, typer.Argument(help="OUTPUT_DIR/final or /checkpoint-N of a training.")
    ],
    model: Annotated[str, typer.Argument(help="The model: folder, hub id or asset:NAME.")],
    tokenizer: Annotated[
        str, typer.Argument(help="Whose tokenizer it gets: folder, hub id, asset:NAME or bytes.")
    ],
    target: Annotated[Path, typer.Argument(help="New folder.")],
    dtype: Annotated[
        Literal["float32", "bfloat16"], typer.Option(help="Number format of the weights.")
    ] = "float32",
    as_json: AsJson = False,
) -> None:
    """Write the model with another tokenizer, its rows predicted, to a new folder."""
    with explained():
        from orchestrator.hypernetwork.apply import apply_hypernetwork

        written = apply_hypernetwork(hypernetwork, model, tokenizer, target, dtype)
        report = asdict(written.report)
        print_fields({"folder": written.folder, **report, "num_bytes": written.num_bytes}, as_json)
