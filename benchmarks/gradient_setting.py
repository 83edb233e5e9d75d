"""A small distillation whose gradients are compared: teachers, documents and the plain reference.

Two teachers with different tokenizers, three terms beside cross-entropy, and one of them trains
parameters of its own. The documents are as unequal as they come: dealt to two ranks in turn, one
rank gets the long ones; in the batch ``starved`` it gets all that can be learned from.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool
from pydantic.dataclasses import dataclass as pydantic_dataclass
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from losses.alignment.tokens import Tokens
from losses.base import OPTIONS, LossTerm, Method, Pair
from losses.document import Document, Segment, text_document
from losses.methods.alm import Alm
from losses.methods.kl import Kl
from losses.prediction import Prediction
from losses.signals import HiddenStates, Signal, expect, unpack
from orchestrator.assets.toy.models import random_llama
from orchestrator.assets.toy.text import toy_rows
from orchestrator.assets.toy.tokenizers import byte_level_tokenizer, sentencepiece_tokenizer
from orchestrator.student.engine import EngineOptions
from orchestrator.student.module import DistillModule, Term
from orchestrator.student.objective import Objective
from orchestrator.student.worker import StudentSpec, TermSpec, load_student
from teachers.backends.transformers import LanguageModel, hidden_states
from teachers.document_signals import DocumentSignals
from teachers.head_weights import HeadWeights
from teachers.source import ModelSource
from teachers.teacher import Teacher
from teachers.tokenizer import Tokenizer

GLOBAL_BATCH = 8
STUDENT_WIDTH, TEACHER_WIDTH = 32, 48
WEIGHTS = (0.5, 1.0, 0.3, 2.0)


@pydantic_dataclass(frozen=True, config=OPTIONS)
class LearnedMap(Method):
    """Squared distance between the teacher's hidden states and a trained map of the student's.

    Args:
        lazy: do not call the map on a document without rows, which ZeRO-3 cannot bear.
    """

    unit: ClassVar[str] = "tokens"

    lazy: bool = False

    def signal(self, teacher: Prediction, document: Document) -> HiddenStates:
        return Kl().signal(teacher, document)

    def modules(self, pair: Pair) -> nn.ModuleDict:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return nn.ModuleDict({"map": nn.Linear(STUDENT_WIDTH, TEACHER_WIDTH)})

    def loss(
        self, student: Prediction, signal: Signal, pair: Pair, modules: nn.ModuleDict
    ) -> LossTerm:
        target = unpack(expect(signal, HiddenStates).hidden).to(student.device)
        if self.lazy and not len(target):
            return LossTerm(student.hidden.new_zeros(()), 0)
        mapped = modules["map"](student.hidden[student.scored_positions - 1])
        return LossTerm((mapped - target).square().mean(-1).sum(), len(target))

    def num_units(
        self, tokens: Tokens, scored: Bool[np.ndarray, "token"], signal: Signal, pair: Pair
    ) -> int:
        return int(scored.sum())


@dataclass(frozen=True)
class Batch:
    """A global batch: documents in the order in which they are dealt to the ranks."""

    documents: list[Document]
    signals: list[DocumentSignals]

    @property
    def num_scored_bytes(self) -> int:
        """Of all documents."""
        return sum(document.num_scored_bytes for document in self.documents)


@dataclass(frozen=True)
class Setting:
    """What every process needs; the student lies in a folder."""

    student: Path
    teachers: dict[str, Tokenizer]
    heads: dict[str, HeadWeights]
    batches: dict[str, Batch]

    def spec(self, *, ranks: int, accumulation: int, stage: int) -> StudentSpec:
        """A student under DeepSpeed that never moves: its learning rate is 0."""
        zero = {"stage": stage, "stage3_param_persistence_threshold": 0}
        engine = EngineOptions(
            micro_batch=GLOBAL_BATCH // ranks // accumulation,
            accumulation=accumulation,
            dtype="float32",
            learning_rate=0.0,
            lr_schedule="constant",
            warmup_steps=0,
            max_steps=100,
            betas=(0.9, 0.95),
            weight_decay=0.0,
            max_grad_norm=0.0,
            extra={"zero_optimization": zero} if stage else {},
        )
        return StudentSpec(
            source=ModelSource(str(self.student)),
            keep=None,
            drop=None,
            device="cpu",
            threads=1,
            num_ranks=ranks,
            gradient_checkpointing=False,
            seed=0,
            objective=Objective(WEIGHTS, "bytes"),
            engine=engine,
            terms=tuple(self._terms(lazy=stage < 3)),
        )

    def _terms(self, *, lazy: bool) -> list[TermSpec]:
        methods = {"same": [Kl(), LearnedMap(lazy)], "other": [Alm(temperature=5.0)]}
        return [
            TermSpec(teacher, type(method).__name__, method, 1.0, tokenizer.vocabulary)
            for teacher, tokenizer in self.teachers.items()
            for method in methods[teacher]
        ]

    def attach_heads(self, module: DistillModule) -> None:
        """Give the teachers' heads to the module's terms."""
        for teacher, head in self.heads.items():
            module.attach_head(teacher, head.head(torch.device("cpu")))


def build_setting(folder: Path) -> Setting:
    """Random toy models; the student is saved into the folder."""
    texts = [row.text for row in toy_rows()][:300]
    fast = {"same": byte_level_tokenizer(texts), "other": sentencepiece_tokenizer(texts)}
    student = random_llama(fast["same"], layers=2, hidden=STUDENT_WIDTH, seed=0)
    student.save_pretrained(folder)
    fast["same"].save_pretrained(folder)
    models = {name: _teacher(name, fast[name], seed) for seed, name in enumerate(fast, start=1)}
    methods: dict[str, list[Method]] = {"same": [Kl(), LearnedMap()], "other": [Alm()]}
    teachers = {name: Teacher(model, methods[name]) for name, model in models.items()}
    return Setting(
        student=folder,
        teachers={name: model.tokenizer for name, model in models.items()},
        heads={name: teacher.head_weights() for name, teacher in teachers.items()},
        batches={
            name: Batch(documents, _signals(teachers, documents))
            for name, documents in _documents(texts).items()
        },
    )


def _teacher(name: str, fast: PreTrainedTokenizerFast, seed: int) -> LanguageModel:
    model = random_llama(fast, layers=2, hidden=TEACHER_WIDTH, seed=seed)
    return LanguageModel.wrap(model, Tokenizer(fast, name))


def _signals(teachers: dict[str, Teacher], documents: Sequence[Document]) -> list[DocumentSignals]:
    rows = [teacher.signals(documents) for teacher in teachers.values()]
    return [sum(parts, ()) for parts in zip(*rows, strict=True)]


def _documents(texts: Sequence[str]) -> dict[str, list[Document]]:
    """``unequal``: every second document is short; ``starved``: it has nothing to learn from."""
    long = [text_document(f"long{n}", " ".join(texts[4 * n : 5 * n])) for n in (1, 2, 3, 2)]
    short = [
        text_document("word", "Hi"),
        _completion("answer", "What is two plus two, please?", " four"),
        text_document("line", texts[0][:40]),
        _completion("last byte", texts[1], "."),
    ]
    dead = [_completion(f"dead{i}", f"{text} Ob", "ject") for i, text in enumerate(texts[:4])]
    return {"unequal": _dealt(long, short), "starved": _dealt(long, dead)}


def _completion(name: str, prompt: str, completion: str) -> Document:
    segments = (
        Segment("prompt", prompt.encode(), scored=False),
        Segment("completion", completion.encode(), scored=True),
    )
    return Document(name, segments)


def _dealt(first: Sequence[Document], second: Sequence[Document]) -> list[Document]:
    return [document for pair in zip(first, second, strict=True) for document in pair]


def reference(setting: Setting, batch: Batch, normalize: str) -> dict[str, Tensor]:
    """Each parameter's gradient of the objective as it is written down, in plain torch."""
    module = plain_module(setting)
    student = module.student
    totals, units = torch.zeros(len(WEIGHTS)), torch.zeros(len(WEIGHTS))
    tokens = student.encode(batch.documents)
    for document, view, signals in zip(batch.documents, tokens, batch.signals, strict=True):
        [hidden] = hidden_states(module.model.base_model, [view], student.device)
        losses = module.losses(student.prediction(document, view, hidden), signals)
        totals = totals + torch.stack([loss.total for loss in losses])
        units = units + torch.tensor([float(loss.units) for loss in losses])
    counts = units if normalize == "units" else batch.num_scored_bytes
    (totals / counts * torch.tensor(WEIGHTS)).sum().backward()
    return {n: p.grad for n, p in module.named_parameters() if p.grad is not None}


def plain_module(setting: Setting) -> DistillModule:
    """The student and its terms, without an engine."""
    spec = setting.spec(ranks=1, accumulation=1, stage=0)
    student = load_student(spec, "cpu")
    own = student.tokenizer.vocabulary
    terms = [
        Term(t.teacher, t.method_name, t.method, t.weight, Pair(own, t.vocabulary))
        for t in spec.terms
    ]
    module = DistillModule(student, terms)
    setting.attach_heads(module)
    return module
