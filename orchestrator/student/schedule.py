"""Learning-rate schedules as factors of the peak rate."""

import math
from collections.abc import Callable

from torch.optim.lr_scheduler import LambdaLR


def lr_factor(schedule: str, warmup_steps: int, max_steps: int) -> Callable[[int], float]:
    """Factor at each step: linear warm-up, then constant, linear to 0 or cosine to 0.

    The first step already moves: warm-up over 4 steps gives 1/4, 2/4, 3/4, 1.

    >>> factor = lr_factor("linear", warmup_steps=2, max_steps=6)
    >>> [factor(step) for step in range(6)]
    [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    """
    decays: dict[str, Callable[[float], float]] = {
        "constant": lambda _: 1.0,
        "linear": lambda progress: 1.0 - progress,
        "cosine": lambda progress: 0.5 * (1.0 + math.cos(math.pi * progress)),
    }
    decay = decays[schedule]

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        progress = (step - warmup_steps) / max(1, max_steps - warmup_steps)
        return decay(min(progress, 1.0))

    return factor


def resume_schedule(schedule: LambdaLR, step: int) -> None:
    """Put a schedule where it is after ``step`` steps: its rates are a function of the step."""
    pairs = zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)
    rates = [base * factor(step) for base, factor in pairs]
    lambdas = [None] * len(rates)
    changed = {"last_epoch": step, "_step_count": step + 1, "_last_lr": rates}
    schedule.load_state_dict({**changed, "lr_lambdas": lambdas})
    for group, rate in zip(schedule.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
