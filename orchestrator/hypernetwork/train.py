"""``tutelage hypernet train``: one process, the frozen model and a small network."""

import json
import logging
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from tqdm.auto import tqdm

from losses.document import Document
from orchestrator.atomic import atomic_write_text
from orchestrator.checkpoint.read import checkpoint_to_resume
from orchestrator.checkpoint.write import save_model
from orchestrator.data import load_documents, prepare
from orchestrator.hypernetwork.config import HypernetworkConfig
from orchestrator.hypernetwork.frozen import FrozenModel, load_frozen, load_tokenizer
from orchestrator.hypernetwork.network import Hypernetwork
from orchestrator.hypernetwork.state import check_same_run, restore, save_checkpoint
from orchestrator.hypernetwork.trained import TrainedHypernetwork
from orchestrator.hypernetwork.trainer import HypernetworkTrainer
from orchestrator.interruption import StopRequest, stop_on_signals
from orchestrator.metrics import MetricsWriter, cut_metrics
from orchestrator.run_folder import locked, open_run_folder, renew_run_folder
from teachers.evaluation import bits_per_byte, score
from teachers.tokenizer import Tokenizer

log = logging.getLogger(__name__)

FINAL = "final"
SUMMARY = "summary.json"


@dataclass(frozen=True)
class HeldOut:
    """Bits per byte on held-out text.

    Args:
        own_tokenizer: the frozen model as it is.
        residual: in a sampled vocabulary, with the rows of the untrained network.
        hypernetwork: in the same vocabulary, with the rows of the trained one.
    """

    own_tokenizer: float
    residual: float
    hypernetwork: float


@dataclass(frozen=True)
class HypernetworkSummary:
    """What a training did; losses are in nats a byte."""

    folder: str
    num_steps: int
    first_loss: float | None
    last_loss: float | None
    held_out: HeldOut | None
    seconds: float


def train_hypernetwork(
    config: HypernetworkConfig, *, overwrite: bool = False, resume: bool = False
) -> HypernetworkSummary:
    """Train, and write checkpoints, metrics, the network and a summary.

    Args:
        config: the file.
        overwrite: move what ``output_dir`` holds aside and start anew.
        resume: continue from the latest checkpoint.

    Raises:
        ConfigError: the file or its data are wrong.
        TrainingDiverged: the loss is not finite.
        Interrupted: SIGTERM or Ctrl-C; what was trained is saved.
    """
    start = time.perf_counter()
    folder = Path(config.output_dir).absolute()
    if resume:
        check_same_run(folder, config)
    source = load_tokenizer(config.model)
    documents, held_out = _documents(config, source)
    if not resume:
        folder = open_run_folder(config, overwrite=overwrite)
    with locked(folder), stop_on_signals() as stop:
        if resume:
            renew_run_folder(folder, config)
        frozen = load_frozen(config.model, source)
        trainer = HypernetworkTrainer(frozen, new_network(config, frozen), config, documents)
        before = _held_out(trainer, held_out)
        losses = _train(trainer, folder, stop)
        save_model(folder / FINAL, config.train.max_steps, _done(trainer, None).save)
        summary = HypernetworkSummary(
            folder=str(folder / FINAL),
            num_steps=config.train.max_steps,
            first_loss=losses[0] if losses else None,
            last_loss=losses[-1] if losses else None,
            held_out=_compared(trainer, held_out, before),
            seconds=time.perf_counter() - start,
        )
        atomic_write_text(folder / SUMMARY, json.dumps(asdict(summary), indent=2) + "\n")
    return summary


def new_network(config: HypernetworkConfig, frozen: FrozenModel) -> Hypernetwork:
    """An untrained network for the model's rows."""
    _, num_stacked, hidden = frozen.rows.shape
    network = Hypernetwork(config.network, num_stacked, hidden)
    network.start(frozen.rows, config.train.seed)
    return network.to(frozen.device)


def _documents(
    config: HypernetworkConfig, source: Tokenizer
) -> tuple[tuple[Document, ...], tuple[Document, ...]]:
    data = config.data
    train = load_documents(data.train, data.train_limit)
    held_out = load_documents(data.held_out, data.held_out_limit)
    found = prepare(train, [source], data.max_length).documents
    return found, prepare(held_out, [source], data.max_length).documents if held_out else ()


def _train(trainer: HypernetworkTrainer, folder: Path, stop: StopRequest) -> list[float]:
    """The steps that are left; gives their losses."""
    train = trainer.config.train
    checkpoint = checkpoint_to_resume(folder)
    done = 0 if checkpoint is None else restore(trainer, checkpoint)
    cut_metrics(folder, done)
    losses = []
    bar = tqdm(
        total=train.max_steps, initial=done, desc="hypernetwork", unit="step", dynamic_ncols=True
    )
    with MetricsWriter(folder, done) as metrics, bar:
        for step in range(done, train.max_steps):
            report = trainer.step(step)
            metrics.write(step, report.metrics())
            losses.append(report.loss)
            bar.set_postfix(loss=f"{report.loss:.4f}")
            bar.update()
            due = train.save_steps and (step + 1) % train.save_steps == 0
            if due or stop.signum is not None:
                metrics.sync()
                save_checkpoint(folder, trainer, _done(trainer, step + 1))
            stop.check(f"{step + 1} steps are saved in {folder}; continue with --resume")
    return losses


def _done(trainer: HypernetworkTrainer, num_steps: int | None) -> TrainedHypernetwork:
    config = trainer.config
    return TrainedHypernetwork(
        network=trainer.network,
        model=config.model.init,
        vocabulary=trainer.source.vocabulary.fingerprint,
        num_steps=config.train.max_steps if num_steps is None else num_steps,
    )


def _held_out(trainer: HypernetworkTrainer, documents: tuple[Document, ...]) -> float | None:
    return trainer.held_out_bits_per_byte(documents) if documents else None


def _compared(
    trainer: HypernetworkTrainer, documents: tuple[Document, ...], before: float | None
) -> HeldOut | None:
    if before is None:
        return None
    own = score(trainer.frozen.own, documents, token_budget=2048)
    return HeldOut(bits_per_byte(own), before, trainer.held_out_bits_per_byte(documents))
