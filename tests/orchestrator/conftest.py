"""A student engine in plain torch, and a small distillation with two unlike teachers."""

import logging
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from losses.base import Method, Pair
from losses.document import Document, Segment, text_document
from losses.methods.alm import Alm
from losses.methods.kl import Kl
from orchestrator.assets import resolve
from orchestrator.student.adamw import WholeState
from orchestrator.student.average import RunningAverage
from orchestrator.student.deepspeed import parameter_groups
from orchestrator.student.engine import EngineOptions, Update
from orchestrator.student.module import DistillModule, Example, Probe, Term
from orchestrator.student.moving import move_whole
from orchestrator.student.schedule import resume_schedule
from orchestrator.student.stages import StagedParameters
from orchestrator.student.trainer import Objective, StudentTrainer
from teachers.backends.transformers import LanguageModel
from teachers.document_signals import DocumentSignals
from teachers.teacher import Teacher

ZERO: dict[int, dict[str, Any]] = {
    0: {},
    1: {"zero_optimization": {"stage": 1}},
    2: {"zero_optimization": {"stage": 2}},
    # else it keeps small weights whole
    3: {"zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0}},
}


@pytest.fixture(scope="session")
def zero() -> dict[int, dict[str, Any]]:
    """DeepSpeed's keys for each ZeRO stage, such that it does what it says on small models."""
    return ZERO


@pytest.fixture(scope="session")
def train_ranks() -> Iterator[Callable[[dict[str, Any], Path], dict[str, Any]]]:
    """Trains jobs under DeepSpeed; gives each one's result, or the text of its error.

    One process forks the ranks of all files: to import all that they need takes it seconds.
    """
    here = Path(__file__).parent
    with ExitStack() as stack:
        running: list[subprocess.Popen[str]] = []

        def train(jobs: dict[str, Any], folder: Path) -> dict[str, Any]:
            (folder / "jobs.pickle").write_bytes(pickle.dumps(jobs))
            if not running:
                running.append(stack.enter_context(_forking(here)))
            [process] = running
            process.stdin.write(f"{folder}\n")
            process.stdin.flush()
            while (line := process.stdout.readline()) != "done\n":
                assert line, "the process that forks the ranks has died"
            return {name: _trained(folder, name) for name in jobs}

        yield train


def _forking(here: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(here / "deepspeed_ranks.py")],
        cwd=here.parents[1],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _trained(folder: Path, name: str) -> Any:
    path = folder / f"{name}.pt"
    if path.exists():
        return torch.load(path, weights_only=False)
    errors = sorted(folder.glob(f"{name}.*.error"))
    return "\n".join(error.read_text() for error in errors) or "no answer in time"


@pytest.fixture(scope="session")
def collected(request) -> Callable[[str, str], list[str]]:
    """The values of a parameter for which tests of a file will run: nightly ones may not."""

    def names(file: str, parameter: str) -> list[str]:
        items = [item for item in request.session.items if item.path.name == file]
        calls = [item.callspec.params for item in items if hasattr(item, "callspec")]
        return list(dict.fromkeys(c[parameter] for c in calls if parameter in c))

    return names


class TorchEngine:
    """AdamW on one rank without DeepSpeed: the reference that the real engine must match."""

    def __init__(self, module: DistillModule, options: EngineOptions) -> None:
        self.module = module
        self.options = options
        self.micro_batches: list[int] = []
        self.gradients: dict[str, torch.Tensor] = {}
        self._optimizer = torch.optim.AdamW(
            parameter_groups(module, options.weight_decay, staged=bool(options.stages)),
            lr=options.learning_rate,
            betas=options.betas,
        )
        factors = [options.rates.factor(group["part"]) for group in self._optimizer.param_groups]
        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._optimizer, factors)
        self.state = WholeState(module, self._optimizer)
        self.average = None
        if options.average_decay is not None:
            self.average = RunningAverage(self.state.masters(), options.average_decay)
        self._stages = StagedParameters(module, options.stages)
        self._enter(0)

    def forward(self, examples: Sequence[Example], probe: Probe | None = None) -> torch.Tensor:
        self.micro_batches.append(len(examples))
        totals: torch.Tensor = self.module(examples, probe)
        return totals

    def backward(self, objective: torch.Tensor) -> None:
        objective.backward()

    def step(self) -> Update:
        """Update, and keep the gradients as they were before clipping."""
        named = {n: p for n, p in self.module.named_parameters() if p.grad is not None}
        self.gradients = {name: p.grad.clone() for name, p in named.items()}
        norm = torch.nn.utils.clip_grad_norm_(
            named.values(), self.options.max_grad_norm or torch.inf
        )
        learning_rate = self._schedule.get_last_lr()[0]
        self._optimizer.step()
        self._schedule.step()
        self._optimizer.zero_grad()
        if self.average is not None:
            self.average.update()
        self._enter(self._schedule.last_epoch)
        return Update(float(norm), learning_rate)

    def all_reduce(self, values: torch.Tensor) -> torch.Tensor:
        return values.clone()

    def move_to(self, device: str) -> None:
        move_whole(self.module, self._optimizer, device)

    def resume_at(self, step: int) -> None:
        resume_schedule(self._schedule, step)
        self._enter(step)

    def _enter(self, step: int) -> None:
        self.state.forget(self._stages.enter(step))

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {name: value.clone() for name, value in self.module.model.state_dict().items()}


def engine_options(**changed: Any) -> EngineOptions:
    """Sizes that the plain engine does not read are 1."""
    values: dict[str, Any] = {
        "micro_batch": 1,
        "accumulation": 1,
        "dtype": "float32",
        "learning_rate": 1e-2,
        "lr_schedule": "constant",
        "warmup_steps": 0,
        "max_steps": 10,
        "betas": (0.9, 0.95),
        "weight_decay": 0.0,
        "max_grad_norm": 0.0,
        "extra": {},
    }
    return EngineOptions(**(values | changed))


@dataclass(frozen=True)
class Distillation:
    """A student, two teachers and what they say about the documents.

    ``same`` has the student's tokenizer and feeds kl; ``other`` has the other family's.
    """

    build_student: Callable[[], LanguageModel]
    teachers: dict[str, LanguageModel]
    methods: dict[str, Method]
    documents: list[Document]
    signals: list[DocumentSignals] = field(default_factory=list)

    @property
    def num_scored_bytes(self) -> int:
        return sum(document.num_scored_bytes for document in self.documents)

    def terms(self) -> list[Term]:
        vocabulary = self.build_student().tokenizer.vocabulary
        found = []
        for name, model in self.teachers.items():
            pair = Pair(vocabulary, model.tokenizer.vocabulary)
            method = type(self.methods[name]).__name__.lower()
            term = Term(name, method, self.methods[name], 1.0, pair)
            head = Teacher(model, []).head_weights().head(torch.device("cpu"))
            found.append(term.with_head(head))
        return found

    def trainer(
        self,
        weights: tuple[float, ...] = (0.5, 1.0, 2.0),
        normalize: str = "bytes",
        micro_batch: int = 2,
        **options: Any,
    ) -> StudentTrainer:
        """A trainer on a plain engine, always with the same fresh student."""
        module = DistillModule(self.build_student(), self.terms())
        module.model.train()
        engine = TorchEngine(module, engine_options(micro_batch=micro_batch, **options))
        return StudentTrainer(engine, Objective(weights, normalize), micro_batch, 512)


@pytest.fixture(scope="session")
def mixed_documents(documents: list[Document]) -> list[Document]:
    """Six documents; of two only the completion is scored."""
    drills = [
        (Segment("prompt", b"2 + 2 = ", False), Segment("completion", b"4 of course", True)),
        (Segment("prompt", "naïve".encode(), False), Segment("completion", b" means simple", True)),
    ]
    plain = [documents[0], documents[3], documents[4], text_document("short", "Hi there")]
    return [*plain, *(Document(f"drill{i}", segments) for i, segments in enumerate(drills))]


@pytest.fixture(scope="session")
def distillation(
    language_model: Callable[..., LanguageModel], mixed_documents: list[Document]
) -> Callable[..., Distillation]:
    """Build a distillation; ``methods`` by teacher name, kl and published alm by default."""

    def build(
        methods: dict[str, Method] | None = None, student: dict[str, Any] | None = None
    ) -> Distillation:
        chosen = methods or {"same": Kl(), "other": Alm(temperature=5.0)}
        models = {
            "same": language_model("llama", "bytelevel", seed=1),
            "other": language_model("gemma2", "sentencepiece", seed=2),
        }
        teachers = {name: models[name] for name in chosen}
        rows = [Teacher(m, [chosen[n]]).signals(mixed_documents) for n, m in teachers.items()]
        signals = [sum(parts, ()) for parts in zip(*rows, strict=True)]
        options = {"architecture": "llama", "seed": 0} | (student or {})
        return Distillation(
            lambda: language_model(**options), teachers, chosen, mixed_documents, signals
        )

    return build


@pytest.fixture
def fetched() -> Callable[[str], Path]:
    """Where a real asset lies; skips the test while it is not fetched."""

    def find(reference: str) -> Path:
        try:
            return resolve(reference)
        except FileNotFoundError as error:
            pytest.skip(str(error))

    return find


@pytest.fixture
def log_levels() -> Iterator[None]:
    """Put the log levels back that the command line sets."""
    loggers = [logging.getLogger(name) for name in ("orchestrator", "teachers", "losses")]
    before = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, before, strict=True):
        logger.setLevel(level)
