"""Chats through the whole of a run: what ``validate`` says of them, and a step of training."""

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import LlamaConfig

from losses.document import Document, chat_document
from orchestrator.config import parse_run
from orchestrator.setup import set_up
from orchestrator.sources import student_source, teacher_source
from orchestrator.validation import validate
from teachers.backends.transformers import LanguageModel
from teachers.teacher import Teacher

TALK = [("user", "What is a value?"), ("assistant", "An object with a type.")]
TEMPLATE = "{% for m in messages %}{{ m.role }}\n{{ m.content | trim }}{{ eos_token }}{% endfor %}"


@pytest.fixture
def run(fast_tokenizers, tmp_path: Path):
    """A run on chats whose student has a template and whose teacher has none; no weights."""
    for name, template in (("bytelevel", TEMPLATE), ("sentencepiece", None)):
        fast = deepcopy(fast_tokenizers[name])
        fast.chat_template = template
        ids = {"bos_token_id": None, "eos_token_id": None, "vocab_size": len(fast)}
        LlamaConfig(hidden_size=8, num_attention_heads=1, **ids).save_pretrained(tmp_path / name)
        fast.save_pretrained(tmp_path / name)
    talks = [TALK, [("user", "Why?"), ("assistant", "So. ")], [*TALK, *TALK, *TALK, *TALK]]
    rows = [{"messages": [{"role": r, "content": c} for r, c in talk]} for talk in talks]
    files = [str(tmp_path / f"{name}.jsonl") for name in ("train", "held_out")]
    for file in files:
        Path(file).write_text("\n".join(map(json.dumps, rows)))
    teacher = {"name": "other", "model": str(tmp_path / "sentencepiece")}
    return {
        "student": {"init": str(tmp_path / "bytelevel"), "packing": True},
        "teachers": [{**teacher, "methods": [{"name": "alm"}]}],
        "data": {"train": files[:1], "held_out": files[1:], "max_length": 64},
        "output_dir": str(tmp_path / "run"),
    }


def test_validate_names_templates_and_reasons(run):
    lines = list(validate(parse_run(run)))
    text = "\n".join(lines)
    assert "start token <|endoftext|>, its own chat template" in text
    assert "start token <bos>, plain chats (it has no chat template)" in text
    trimmed = "1 left out by student: the chat template trims white space around a message"
    [train] = (line for line in lines if line.startswith("train: "))
    assert train.startswith("train: 2 documents")
    assert "1 cut to length" in train
    assert trimmed in train


def test_validate_counts_tokens_that_do_not_count(run):
    fast_folder = Path(run["student"]["init"])
    template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n\n{% endfor %}"
    (fast_folder / "chat_template.jinja").write_text(template)
    text = "\n".join(validate(parse_run(run)))
    assert "tokens of student straddle a border and do not count" in text


def test_plain_on_request(run):
    run["student"]["template"] = "plain"
    config = parse_run(run)
    assert "start token <|endoftext|>, plain chats\n" in "\n".join(validate(config))
    assert set_up(config).train.quarantined == {"student": 0, "other": 0}


def test_template_and_packing_reach_the_models(run):
    run["teachers"][0] |= {"template": "plain", "packing": True}
    config = parse_run(run)
    student = student_source(config.student)
    teacher = teacher_source(config.teachers[0], config.student)
    assert (student.template, student.packing) == (None, True)
    assert (teacher.template, teacher.packing) == ("plain", True)


@pytest.fixture(scope="module")
def chats() -> list[Document]:
    talks = [TALK * 3, TALK, [("system", "Be brief."), *TALK], [("user", "a"), ("assistant", "b")]]
    return [chat_document(f"chat{index}", talk) for index, talk in enumerate(talks)]


def test_a_step_is_the_same_packed_and_padded(distillation, tiny_model, tokenizers, chats):
    base, reports = distillation(), []
    rows = [Teacher(m, [base.methods[n]]).signals(chats) for n, m in base.teachers.items()]
    signals = [sum(parts, ()) for parts in zip(*rows, strict=True)]
    for packing in (False, True):

        def student(packing: bool = packing) -> LanguageModel:
            model = tiny_model("llama", 512)
            return LanguageModel.wrap(model, tokenizers["bytelevel"], packing=packing)

        trained = replace(base, build_student=student, documents=chats, signals=signals)
        trainer = trained.trainer(micro_batch=4)
        reports.append(trainer.step(chats, signals, trained.num_scored_bytes))
    padded, packed = reports
    assert packed.losses == pytest.approx(padded.losses, rel=1e-5)
    assert packed.update.grad_norm == pytest.approx(padded.update.grad_norm, rel=1e-4)
    assert all(loss > 0 for loss in packed.losses)
