"""Does a student keep its numerals, and are its sums right? Reads a finished experiment's models.

    tutelage experiment experiments/numerals.yaml
    python -m benchmarks.numerals runs/experiments/numerals

On held-out sums ``a + b = c.``, where the student's own tokenizer writes ``c`` as one token of
several digits:

numerals      probability of all tokens of several digits, over that of all tokens of digits
right         the greedy answer is ``c``, however it is cut
as numerals   greedy answers whose first token has several digits
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.table import show
from orchestrator.assets import resolve

LONGEST_ANSWER = 4


@dataclass(frozen=True)
class Numerals:
    """Means over the sums."""

    numerals: float
    right: float
    as_numerals: float


def held_out_sums() -> list[tuple[str, str]]:
    """What stands up to the answer, and the answer, of sums with answers of several digits."""
    rows = resolve("asset:numerals/held_out.jsonl").read_text(encoding="utf-8").splitlines()
    lines = [line for row in rows for line in json.loads(row)["text"].splitlines()]
    sums = [line.removesuffix(".").rpartition(" ") for line in lines]
    return [(f"{question} ", answer) for question, _, answer in sums if len(answer) > 1]


@torch.no_grad()
def measure(folder: Path, sums: Sequence[tuple[str, str]]) -> Numerals:
    """Read one model's answers."""
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    asked = tokenizer([question for question, _ in sums], return_tensors="pt", padding=True)
    digits = [tokenizer.decode([token]) for token in range(len(tokenizer))]
    is_digits = torch.tensor([text.isdecimal() for text in digits])
    is_numeral = torch.tensor([text.isdecimal() and len(text) > 1 for text in digits])
    found = model.generate(
        **asked,
        do_sample=False,
        max_new_tokens=LONGEST_ANSWER,
        output_logits=True,
        return_dict_in_generate=True,
    )
    first = found.logits[0].softmax(-1)
    answers = found.sequences[:, asked["input_ids"].shape[1] :]
    texts = [tokenizer.decode(ids).split(".")[0] for ids in answers]
    right = [text == answer for text, (_, answer) in zip(texts, sums, strict=True)]
    return Numerals(
        numerals=(first[:, is_numeral].sum(-1) / first[:, is_digits].sum(-1)).mean().item(),
        right=sum(right) / len(right),
        as_numerals=is_numeral[answers[:, 0]].float().mean().item(),
    )


def main() -> None:
    """Measure every model of an experiment, and what they started from."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("experiment", type=Path, help="the experiment's output_dir")
    experiment: Path = parser.parse_args().experiment
    sums = held_out_sums()
    results = json.loads((experiment / "experiment.json").read_text(encoding="utf-8"))
    rows = [
        _row("teacher", results["teachers"]["digits"], [resolve("asset:numerals/teacher")], sums)
    ]
    rows.append(_row("before", results["before"], [resolve("asset:numerals/student")], sums))
    for arm in results["arms"]:
        folders = sorted((experiment / "arms" / arm["name"]).glob("seed-*/final"))
        rows.append(_row(arm["name"], arm["mean"]["value"], folders, sums))
    show(f"{len(sums)} held-out sums with answers of several digits, means over seeds", rows)


def _row(
    name: str, bits: float, folders: Sequence[Path], sums: Sequence[tuple[str, str]]
) -> dict[str, object]:
    found = [measure(folder, sums) for folder in folders]
    means = {
        field: sum(getattr(one, field) for one in found) / len(found)
        for field in ("numerals", "right", "as_numerals")
    }
    shares = {field.replace("_", " "): f"{value:.1%}" for field, value in means.items()}
    return {"arm": name, "bits per byte": f"{bits:.3f}"} | shares


if __name__ == "__main__":
    main()
