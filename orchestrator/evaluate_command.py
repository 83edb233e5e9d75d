"""The command ``tutelage evaluate``: a model on documents, an ensemble, or exposure bias.

Torch and the rest are imported inside it, so that ``--help`` answers at once.

Which options belong to which of the three is said once, in ``OPTIONS_OF``; one given without
effect is refused.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer
from typer.core import TyperCommand

from orchestrator.explained import explained
from orchestrator.printing import print_fields

ENSEMBLE = "--ensemble"
EXPOSURE_BIAS = "--exposure-bias"

OPTIONS_OF = {
    "max_length": ("", ENSEMBLE),
    "mean": (ENSEMBLE,),
    "weight": (ENSEMBLE,),
    "converter": (ENSEMBLE, EXPOSURE_BIAS),
    "teacher": (EXPOSURE_BIAS,),
    "num_prompts": (EXPOSURE_BIAS,),
    "prompt_bytes": (EXPOSURE_BIAS,),
    "num_bytes": (EXPOSURE_BIAS,),
    "temperature": (EXPOSURE_BIAS,),
    "seed": (EXPOSURE_BIAS,),
    "output": (EXPOSURE_BIAS,),
}
"""What each option goes with; plain evaluation is the empty name. The others go with all."""


class EvaluateCommand(TyperCommand):
    """A command that gets the kind of context that its signature says."""

    context_class = typer.Context


Model = Annotated[str, typer.Argument(help="A checkpoint or folder, hub id or asset:NAME.")]
More = Annotated[
    list[str] | None,
    typer.Argument(metavar="[DATA.jsonl]...", help="Documents; with --ensemble more models."),
]
Data = Annotated[
    list[str] | None,
    typer.Option("--data", metavar="DATA.jsonl", help="Documents; may be repeated."),
]
MaxLength = Annotated[int, typer.Option(min=2, help="Longest document, in tokens.")]
Dtype = Annotated[Literal["float32", "bfloat16"], typer.Option(help="Number format of weights.")]
Device = Annotated[Literal["cpu", "cuda"], typer.Option(help="Where models run.")]
Ensemble = Annotated[
    bool,
    typer.Option(
        ENSEMBLE,
        help="Bits per byte of several models' mean, beside each member's. Each MODEL may also "
        "be a RUN.yaml: its teachers.",
    ),
]
Mean = Annotated[
    Literal["arithmetic", "geometric"],
    typer.Option(help="With --ensemble: of probabilities or of log-probabilities."),
]
Weight = Annotated[
    list[float] | None,
    typer.Option(help="With --ensemble: of each member, in order; equal by default."),
]
ExposureBias = Annotated[
    bool,
    typer.Option(
        EXPOSURE_BIAS,
        help="How much worse the model gets by going on from its own text (ExAccErr), drawn "
        "against length.",
    ),
]
Teacher = Annotated[
    str | None,
    typer.Option(metavar="MODEL", help="With --exposure-bias: what the model should be like."),
]
NumPrompts = Annotated[int, typer.Option(min=2, help="With --exposure-bias: at most.")]
PromptBytes = Annotated[
    int, typer.Option(min=1, help="With --exposure-bias: of each document's beginning, at most.")
]
NumBytes = Annotated[
    int, typer.Option(min=1, help="With --exposure-bias: length of the sampled texts.")
]
Temperature = Annotated[
    float, typer.Option(min=0.01, help="With --exposure-bias: of both models' sampling.")
]
Seed = Annotated[int, typer.Option(help="With --exposure-bias: of prompts and samples.")]
Output = Annotated[
    Path,
    typer.Option(
        metavar="FILE", help="With --exposure-bias: a .png (numbers beside it) or a .json."
    ),
]
ConverterName = Annotated[
    Literal["one_path", "on_path", "branches", "beam"],
    typer.Option(help="With --ensemble or --exposure-bias: how tokens become next bytes."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def evaluate(
    context: typer.Context,
    model: Model,
    more: More = None,
    data: Data = None,
    max_length: MaxLength = 512,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    ensemble: Ensemble = False,
    mean: Mean = "arithmetic",
    weight: Weight = None,
    converter: ConverterName = "branches",
    exposure_bias: ExposureBias = False,
    teacher: Teacher = None,
    num_prompts: NumPrompts = 64,
    prompt_bytes: PromptBytes = 64,
    num_bytes: NumBytes = 256,
    temperature: Temperature = 1.0,
    seed: Seed = 0,
    output: Output = Path("exposure_bias.png"),
    as_json: AsJson = False,
) -> None:
    """Bits per byte of a model or of an ensemble on documents; or a model's exposure bias."""
    _refuse_without_effect(context, _kind(ensemble, exposure_bias))
    named, files = [model, *(more or [])], data or []
    if not ensemble:
        files = [*named[1:], *files]
    if not files:
        raise typer.BadParameter(f"no documents; expected {'--data ' * ensemble}DATA.jsonl")
    with explained():
        result: object
        if ensemble:
            from orchestrator.ensemble import Mixing, evaluate_ensemble
            from orchestrator.members import members_of

            members = members_of(named, weight or [], dtype)
            mixing = Mixing(mean, converter)
            result = evaluate_ensemble(members, files, mixing, max_length=max_length, device=device)
        elif exposure_bias:
            from orchestrator.exposure_bias.evaluation import (
                Pairing,
                Prompts,
                evaluate_exposure_bias,
            )
            from teachers.sampling import Sampling

            result = evaluate_exposure_bias(
                Pairing(model, _required(teacher), dtype, device, converter),
                Prompts(tuple(files), num_prompts, prompt_bytes),
                Sampling(num_bytes, temperature, seed),
                output,
            )
        else:
            from orchestrator.evaluation import evaluate_model

            result = evaluate_model(model, files, max_length=max_length, dtype=dtype, device=device)
        print_fields(asdict(result), as_json)


def _kind(ensemble: bool, exposure_bias: bool) -> str:
    if ensemble and exposure_bias:
        raise typer.BadParameter(f"{ENSEMBLE} and {EXPOSURE_BIAS} exclude each other")
    return ENSEMBLE * ensemble or EXPOSURE_BIAS * exposure_bias


def _refuse_without_effect(context: typer.Context, kind: str) -> None:
    for name, kinds in OPTIONS_OF.items():
        source = context.get_parameter_source(name)
        if kind not in kinds and source is not None and source.name == "COMMANDLINE":
            where = " or ".join(filter(None, kinds)) + " or without both" * ("" in kinds)
            raise typer.BadParameter(
                f"--{name.replace('_', '-')} has no effect here; expected it with {where}"
            )


def _required(teacher: str | None) -> str:
    if teacher is None:
        raise typer.BadParameter(f"{EXPOSURE_BIAS} needs --teacher MODEL")
    return teacher
