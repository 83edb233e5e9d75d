"""One step of a hypernetwork's training: draw a vocabulary, predict its rows, move the network.

The frozen model is read in micro-batches with the rows cut off from the network, and their
gradients are summed; the network then has one backward pass. Everything random is a function of
the seed and the step, so that a step needs no state but the network's and the optimizer's.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from losses.document import Document
from orchestrator.data import documents_of_step
from orchestrator.errors import TrainingDiverged
from orchestrator.hypernetwork.batch import Batch
from orchestrator.hypernetwork.config import HypernetworkConfig, HypernetworkTrainConfig
from orchestrator.hypernetwork.frozen import FrozenModel
from orchestrator.hypernetwork.network import Hypernetwork
from orchestrator.hypernetwork.objective import CE, Objective
from orchestrator.hypernetwork.pieces import Speller
from orchestrator.hypernetwork.sampling import Substrings, TokenizerSampler
from orchestrator.student.schedule import lr_factor
from teachers.evaluation import bits_per_byte, document_score


@dataclass(frozen=True)
class HypernetworkStep:
    """What one step did.

    Args:
        losses: by name, in nats a scored byte, before their weights.
        loss: their weighted sum.
        grad_norm: of the network, before it was scaled down.
        learning_rate: of this step.
        num_tokens: sampled tokens read.
        num_bytes: scored bytes.
        num_rows: rows that were predicted.
        seconds: of the whole step.
    """

    losses: dict[str, float]
    loss: float
    grad_norm: float
    learning_rate: float
    num_tokens: int
    num_bytes: int
    num_rows: int
    seconds: float

    def metrics(self) -> dict[str, float]:
        """The same as flat metrics, named as those of a distillation."""
        named = {
            f"{name}_loss" if name == CE else f"self/{name}/kd_loss": value
            for name, value in self.losses.items()
        }
        return {
            "loss": self.loss,
            **named,
            "grad_norm": self.grad_norm,
            "learning_rate": self.learning_rate,
            "num_tokens": float(self.num_tokens),
            "bytes_per_token": self.num_bytes / self.num_tokens,
            "predicted_rows": float(self.num_rows),
            "step_time": self.seconds,
        }


class HypernetworkTrainer:
    """Trains a network for a frozen model.

    Args:
        frozen: the model.
        network: on the model's device.
        config: sampling and optimisation are read.
        documents: that the model's own tokenizer reads exactly.
    """

    def __init__(
        self,
        frozen: FrozenModel,
        network: Hypernetwork,
        config: HypernetworkConfig,
        documents: Sequence[Document],
    ) -> None:
        self.frozen, self.network, self.config = frozen, network, config
        self.documents = tuple(documents)
        self.source = frozen.own.tokenizer
        self.speller = Speller(self.source)
        self.sampler = TokenizerSampler(config.sampling, self.source)
        self.objective = Objective(frozen, config.train.ce_weight, config.train.methods)
        self.optimizer = adamw(network, config.train)
        train = config.train
        factor = lr_factor(train.lr_schedule, train.warmup_steps, train.max_steps)
        self.schedule = LambdaLR(self.optimizer, factor)
        self._pool: tuple[int, Substrings] | None = None

    def step(self, step: int) -> HypernetworkStep:
        """Train on one vocabulary.

        Raises:
            TrainingDiverged: the loss or the gradient is not finite.
        """
        start = time.perf_counter()
        batch = self.batch(step)
        rows = batch.rows(self.network, self.frozen.rows, self.speller)
        leaf = rows.detach().requires_grad_()
        losses = self._backward(batch, leaf)
        rows.backward(leaf.grad)
        norm = float(self._clip())
        loss = float((losses * self.objective.weights).sum())
        if not np.isfinite([loss, norm]).all():
            raise TrainingDiverged(
                f"step {step}: the loss is {loss}, the gradient's norm {norm}; lower "
                "train.learning_rate, or set model.dtype: float32"
            )
        learning_rate = float(self.schedule.get_last_lr()[0])
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        return HypernetworkStep(
            losses=dict(zip(self.objective.names, losses.tolist(), strict=True)),
            loss=loss,
            grad_norm=norm,
            learning_rate=learning_rate,
            num_tokens=sum(map(len, batch.tokens)),
            num_bytes=batch.num_scored_bytes,
            num_rows=len(rows),
            seconds=time.perf_counter() - start,
        )

    def batch(self, step: int) -> Batch:
        """The step's documents in a vocabulary of its own."""
        train, sampling = self.config.train, self.config.sampling
        documents = documents_of_step(self.documents, step, train.global_batch, train.seed)
        rng = np.random.default_rng([train.seed, step])
        sampled = self.sampler.sample(self._substrings(step), rng)
        return Batch.of(documents, sampled, self.source, sampling.num_negatives, rng)

    @torch.no_grad()
    def held_out_bits_per_byte(self, documents: Sequence[Document]) -> float:
        """On these documents, in a whole vocabulary that no step draws."""
        rng = np.random.default_rng([self.config.train.seed, 0, 1])
        sampled = self.sampler.sample(self._substrings(0), rng)
        batch = Batch.of(documents, sampled, self.source, None, rng)
        rows = batch.rows(self.network, self.frozen.rows, self.speller)
        scores = []
        for part in self._micro_batches(batch):
            predictions = self.frozen.predictions(
                batch.documents[part], batch.tokens[part], batch.vocabulary, rows
            )
            scores += [document_score(prediction) for prediction in predictions]
        return bits_per_byte(scores)

    def _backward(
        self, batch: Batch, rows: Float[Tensor, "local stack hidden"]
    ) -> Float[Tensor, "loss"]:
        """Losses in nats a byte; the weighted sum's gradient is left at the rows."""
        self.objective.ask(batch.documents)
        summed = torch.zeros(len(self.objective.names))
        for part in self._micro_batches(batch):
            documents = batch.documents[part]
            predictions = self.frozen.predictions(
                documents, batch.tokens[part], batch.vocabulary, rows
            )
            pairs = zip(predictions, documents, strict=True)
            losses = torch.stack([self.objective.losses(p, d) for p, d in pairs]).sum(0)
            losses = losses / batch.num_scored_bytes
            (losses * self.objective.weights.to(losses)).sum().backward()
            summed += losses.detach().float().cpu()
        return summed

    def _micro_batches(self, batch: Batch) -> list[slice]:
        size = self.config.train.micro_batch
        return [slice(low, low + size) for low in range(0, len(batch.documents), size)]

    def _clip(self) -> Tensor:
        limit = self.config.train.max_grad_norm or torch.inf
        return torch.nn.utils.clip_grad_norm_(self.network.parameters(), limit)

    def _substrings(self, step: int) -> Substrings:
        """Those of the run of documents that holds the step's; counted once for each run."""
        train, wanted = self.config.train, self.config.sampling.num_documents
        num_steps = max(1, wanted // train.global_batch)
        number = 0 if wanted >= len(self.documents) else step // num_steps
        if self._pool is None or self._pool[0] != number:
            documents: Sequence[Document] = self.documents
            if wanted < len(self.documents):
                size = num_steps * train.global_batch
                documents = documents_of_step(self.documents, number, size, train.seed)
            self._pool = number, self.sampler.substrings(documents)
        return self._pool[1]


def adamw(network: Hypernetwork, train: HypernetworkTrainConfig) -> torch.optim.AdamW:
    """AdamW with decay on matrices alone, and none on rows of bytes."""
    decayed = [p for n, p in network.named_parameters() if p.ndim == 2 and n != "positions"]
    ids = set(map(id, decayed))
    others = [p for p in network.parameters() if id(p) not in ids]
    groups = [
        {"params": decayed, "weight_decay": train.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=train.learning_rate, betas=train.betas)
