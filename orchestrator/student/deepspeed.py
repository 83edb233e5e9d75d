"""DeepSpeed as the student's engine: ZeRO 0 to 3, gloo on a CPU, NCCL on GPUs.

Three traps on a CPU are avoided here: the first ``initialize`` would compile a shared-memory
communication kernel (80 s), a killed compile leaves a lock on which later starts hang, and
ZeRO >= 1 imports torch's inductor (2 s) only for an optimizer we do not use.
"""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from orchestrator.student.adamw import AdamWState, WholeState
from orchestrator.student.average import RunningAverage
from orchestrator.student.engine import EngineOptions, Update
from orchestrator.student.module import DistillModule, Example, Probe
from orchestrator.student.moving import move_partitions, move_whole
from orchestrator.student.partitions import PartitionedState
from orchestrator.student.schedule import resume_schedule
from orchestrator.student.stages import StagedParameters, rest_of


def prepare_environment(device: str, extensions: Path) -> None:
    """Set what DeepSpeed reads when it is imported; call before that.

    Args:
        device: ``cpu`` or ``cuda``.
        extensions: a folder of this run for compiled extensions, so that a lock left behind by
            a killed process cannot hang a later run.
    """
    os.environ["TORCH_EXTENSIONS_DIR"] = str(extensions)
    if device == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
        os.environ["TORCHDYNAMO_DISABLE"] = "1"


class DeepSpeedEngine:
    """One rank of the student under DeepSpeed; the process group's variables must be set."""

    def __init__(self, module: DistillModule, options: EngineOptions) -> None:
        import deepspeed

        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
        self.module = module
        optimizer = self._optimizer = torch.optim.AdamW(
            parameter_groups(module, options.weight_decay, staged=bool(options.stages)),
            lr=options.learning_rate,
            betas=options.betas,
            fused=True,  # one pass over memory instead of eight
        )
        factors = [options.rates.factor(group["part"]) for group in optimizer.param_groups]
        self._schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factors)
        self._engine, *_ = deepspeed.initialize(
            model=module,
            optimizer=optimizer,
            lr_scheduler=self._schedule,
            config=settings(options),
            dist_init_required=True,
        )
        self.state: AdamWState = WholeState(module, optimizer)
        if self._engine.zero_optimization():
            self.state = PartitionedState(module, self._engine.optimizer, optimizer)
        self.average: RunningAverage | None = None
        if options.average_decay is not None:
            self.average = RunningAverage(self.state.masters(), options.average_decay)
        self._stages = StagedParameters(module, options.stages)
        self._enter(0)
        num_ranks = torch.distributed.get_world_size()
        self._undo_averages = float(options.accumulation * num_ranks)
        if num_ranks == 1 and not self._engine.zero_optimization():
            # DeepSpeed would copy all gradients into one buffer and back to reduce over one rank.
            self._engine.enable_backward_allreduce = False

    def forward(
        self, examples: Sequence[Example], probe: Probe | None = None
    ) -> Float[Tensor, "term"]:
        """The wrapped module's totals on one micro-batch."""
        totals: Tensor = self._engine(examples, probe)
        return totals

    def backward(self, objective: Float[Tensor, ""]) -> None:
        """DeepSpeed averages over micro-batches and ranks; the objective is a sum."""
        self._engine.backward(objective * self._undo_averages)
        if not self._engine.is_gradient_accumulation_boundary():
            self._engine.step()  # only counts the micro-batch

    def step(self) -> Update:
        """Update the weights."""
        learning_rate = float(self._engine.get_lr()[0])
        own = self._own_norm()
        self._engine.step()
        if self.average is not None:
            self.average.update()
        self._enter(self._schedule.last_epoch)
        norm = self._engine.get_global_grad_norm() if own is None else own
        return Update(float(norm), learning_rate)

    def _own_norm(self) -> float | None:
        """The gradient's norm where DeepSpeed does not tell it: without ZeRO."""
        if self._engine.zero_optimization():
            return None
        gradients = [p.grad for p in self.module.parameters() if p.grad is not None]
        return float(torch.nn.utils.get_total_norm(gradients))

    def all_reduce(self, values: Tensor) -> Tensor:
        """Sum over ranks."""
        summed = values.clone().to(self.module.student.device)  # NCCL sums on GPUs alone
        torch.distributed.all_reduce(summed)
        return summed.to(values.device)

    def resume_at(self, step: int) -> None:
        """See the protocol."""
        resume_schedule(self._schedule, step)
        self._engine.global_steps = step
        self._enter(step)

    def _enter(self, step: int) -> None:
        """Begin a step: its stage says what moves; what it frees has never moved."""
        if names := self._stages.enter(step):
            self.state.forget(names)

    def move_to(self, device: str) -> None:
        """See the protocol."""
        if self.module.student.device.type == device:
            return
        if self._engine.zero_optimization():
            move_partitions(self._engine, self.module, device)
        else:
            move_whole(self.module, self._optimizer, device)
        if self.average is not None:
            self.average.move_to(device)

    def state_dict(self) -> dict[str, Tensor]:
        """The student's weights; under ZeRO-3 gathered from all ranks, so all must call."""
        if self._engine.zero_optimization_partition_weights():
            full = self._engine._zero3_consolidated_16bit_state_dict() or {}
        else:
            full = self.module.state_dict()
        prefix = "model."
        return {
            name.removeprefix(prefix): value.detach().cpu()
            for name, value in full.items()
            if name.startswith(prefix)
        }


def settings(options: EngineOptions) -> dict[str, Any]:
    """DeepSpeed's configuration: the user's settings and the keys we own."""
    return {
        **options.extra,
        "zero_optimization": zero_optimization(options),
        "train_micro_batch_size_per_gpu": options.micro_batch,
        "gradient_accumulation_steps": options.accumulation,
        "gradient_clipping": options.max_grad_norm,
        "bf16": {"enabled": options.dtype == "bfloat16"},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
    }


def zero_optimization(options: EngineOptions) -> dict[str, Any]:
    """The user's ZeRO settings; bfloat16 gets stage 1 at least.

    In stage 0 DeepSpeed's bfloat16 optimizer starts with an AdamW step on zero gradients, which
    decays the weights once and spoils the bias correction: the first update is a quarter too
    small. Stage 1 has the same float32 master weights and the right updates.
    """
    asked: dict[str, Any] = dict(options.extra.get("zero_optimization", {}))
    if options.dtype == "bfloat16" and not asked.get("stage", 0):
        asked["stage"] = 1
    return asked


def parameter_groups(
    module: DistillModule, weight_decay: float, *, staged: bool = False
) -> list[dict[str, Any]]:
    """Weights with decay; biases and norms without; what methods train at their own rates.

    Each group names its ``part``; with ``staged`` what some stages freeze is in groups of its own,
    behind the others.
    """
    apart: dict[nn.Parameter, float] = {}
    for term, modules in zip(module.terms, module.method_modules, strict=True):
        if (rate := term.method.modules_learning_rate) is not None:
            apart |= dict.fromkeys(modules.parameters(), rate)
    trained = [p for p in module.parameters() if p.requires_grad]
    rest = set(rest_of(module).values()) if staged else set()
    groups: list[dict[str, Any]] = []
    for part, late in (("always", False), ("rest", True)):
        usual = [p for p in trained if p not in apart and (p in rest) == late]
        matrices, others = [p for p in usual if p.ndim >= 2], [p for p in usual if p.ndim < 2]
        groups.append({"params": matrices, "weight_decay": weight_decay, "part": part})
        groups.append({"params": others, "weight_decay": 0.0, "part": part})
    for rate in dict.fromkeys(apart.values()):
        own = [p for p in trained if apart.get(p) == rate]
        groups.append({"params": own, "lr": rate, "weight_decay": 0.0, "part": "own rate"})
    return [group for group in groups if group["params"]]
