"""The command ``tutelage ensemble``: several models score texts and write them as one.

Torch and the rest are imported inside it, so that ``--help`` answers at once.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from orchestrator.explained import explained

if TYPE_CHECKING:
    from orchestrator.ensembling import EnsembleScores, Written
    from orchestrator.ensembling.prompts import Prompt as AnyPrompt

Models = Annotated[
    list[str],
    typer.Argument(metavar="MODEL...", help="Folders, hub ids, asset:NAME, or a RUN.yaml."),
]
Data = Annotated[
    list[str] | None,
    typer.Option("--data", metavar="DATA.jsonl", help="Documents to score; may be repeated."),
]
Text = Annotated[list[str] | None, typer.Option(help="A text to score; may be repeated.")]
Prompt = Annotated[list[str] | None, typer.Option(help="A text to go on with; may be repeated.")]
Chat = Annotated[
    list[str] | None,
    typer.Option(
        help="A user's message to answer, through each member's own template; may be repeated."
    ),
]
Mean = Annotated[
    Literal["arithmetic", "geometric"],
    typer.Option(help="Of probabilities or of log-probabilities."),
]
Weight = Annotated[
    list[float] | None, typer.Option(help="Of each member, in order; equal by default.")
]
Interface = Annotated[
    Literal["auto", "tokens", "bytes"],
    typer.Option(help="What is mixed; auto: tokens where all have one vocabulary, else bytes."),
]
ConverterName = Annotated[
    Literal["one_path", "on_path", "branches", "beam"],
    typer.Option(help="How tokens become next bytes where texts are scored in bytes."),
]
MaxLength = Annotated[
    int, typer.Option(min=2, help="Longest document of --data, in tokens of the first member.")
]
MaxNewTokens = Annotated[
    int | None, typer.Option(min=1, help="Longest text, where tokens are mixed.")
]
MaxNewBytes = Annotated[
    int | None, typer.Option(min=1, help="Longest text; 256 if no limit is given.")
]
Temperature = Annotated[
    float, typer.Option(min=0.0, help="Divides the mean's log-probabilities; 0 is greedy.")
]
Seed = Annotated[int, typer.Option(help="Of the draws.")]
Width = Annotated[int, typer.Option(min=1, help="Segmentations kept while writing in bytes.")]
Epsilon = Annotated[
    float, typer.Option(min=0.0, max=1.0, help="Smallest share of the mass with which one is kept.")
]
Cache = Annotated[
    bool, typer.Option("--cache/--no-cache", help="Keep keys and values while writing.")
]
Dtype = Annotated[Literal["float32", "bfloat16"], typer.Option(help="Number format of weights.")]
Device = Annotated[Literal["cpu", "cuda"], typer.Option(help="Where models run.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def ensemble(
    models: Models,
    data: Data = None,
    text: Text = None,
    prompt: Prompt = None,
    chat: Chat = None,
    mean: Mean = "arithmetic",
    weight: Weight = None,
    interface: Interface = "auto",
    converter: ConverterName = "branches",
    max_length: MaxLength = 512,
    max_new_tokens: MaxNewTokens = None,
    max_new_bytes: MaxNewBytes = None,
    temperature: Temperature = 0.0,
    seed: Seed = 0,
    width: Width = 10,
    epsilon: Epsilon = 0.01,
    cache: Cache = True,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Score and write texts with several models at once, whatever their tokenizers."""
    if not (data or text or prompt or chat):
        raise typer.BadParameter("nothing to do; expected --data, --text, --prompt or --chat")
    with explained():
        from orchestrator.data import load_documents
        from orchestrator.ensembling import Ensemble, EnsembleOptions, Search

        documents = load_documents(data or [])
        options = EnsembleOptions(mean, interface, converter, Search(width, epsilon), cache)
        whole = Ensemble.load(models, weight or [], options, dtype=dtype, device=device)
        scores = []
        if documents:
            scores.append(whole.score(documents, max_length=max_length))
        if text:
            scores.append(whole.score(text))
        chats = [[{"role": "user", "content": content}] for content in chat or []]
        prompts: list[AnyPrompt] = [*(prompt or []), *chats]
        written = whole.generate(prompts, max_new_tokens, max_new_bytes, temperature, seed)
        _print(scores, [*(prompt or []), *(chat or [])], written, as_json)


def _print(
    scores: Sequence["EnsembleScores"],
    prompts: Sequence[str],
    written: Sequence["Written"],
    as_json: bool,
) -> None:
    from orchestrator.ensembling.scores import table

    if as_json:
        rows = [_as_json(one, prompt) for one, prompt in zip(written, prompts, strict=True)]
        found = {"scores": [asdict(one) for one in scores], "written": rows}
        typer.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    for one in scores:
        Console().print(table(one))
    for prompt, result in zip(prompts, written, strict=True):
        bits = f"{len(result.content)} bytes, {result.nats:.2f} nats, stopped by {result.stopped}"
        typer.echo(f"> {prompt}\n{result.text}\n({bits})")


def _as_json(written: "Written", prompt: str) -> dict[str, object]:
    fields = {name: value for name, value in asdict(written).items() if name != "content"}
    return {"prompt": prompt, "text": written.text, "num_bytes": len(written.content), **fields}
