"""AdamW's full-precision state by parameter name, however the weights are spread over ranks.

A name and a kind stand for one whole float32 tensor. That makes a saved state independent of the
number of ranks and of the ZeRO stage. All ranks ask in the same order: under ZeRO each answer is
gathered from all of them.

    kind         what
    weights      the master weights
    exp_avg      running mean of the gradient
    exp_avg_sq   running mean of its square
"""

from collections.abc import Collection, Mapping
from typing import Any, Literal, Protocol, TypeAlias, get_args, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

Kind: TypeAlias = Literal["weights", "exp_avg", "exp_avg_sq"]
KINDS: tuple[Kind, ...] = get_args(Kind)
MOMENTS: tuple[Kind, ...] = KINDS[1:]


@runtime_checkable
class AdamWState(Protocol):
    """Reads and sets the state of every trained parameter."""

    def num_updates(self) -> dict[str, int]:
        """How often AdamW has moved each trained parameter, by name."""

    def read(self, kind: Kind, name: str) -> Float[Tensor, "*shape"]:
        """The whole tensor in float32, on the CPU or the parameter's device."""

    def begin(self, num_updates: Mapping[str, int]) -> None:
        """Make room for the moments before they are set."""

    def set(self, kind: Kind, name: str, value: Float[Tensor, "*shape"]) -> None:
        """Put a whole tensor in its place; each rank takes its part."""

    def forget(self, names: Collection[str]) -> None:
        """Make the moments of these parameters those of parameters that were never moved."""

    def masters(self) -> list[Tensor]:
        """The master weights as this rank holds them, always the same tensors."""


def trained_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that are trained, by name; one that has two names only once."""
    return {name: value for name, value in module.named_parameters() if value.requires_grad}


class WholeState:
    """Every rank holds every parameter: plain torch, and ZeRO stage 0."""

    def __init__(self, module: nn.Module, optimizer: torch.optim.AdamW) -> None:
        self._parameters = trained_parameters(module)
        self._optimizer = optimizer

    def num_updates(self) -> dict[str, int]:
        """A parameter without a gradient is never moved, so the counts may differ."""
        states = {name: self._moments(p) for name, p in self._parameters.items()}
        return {name: int(state.get("step", 0)) for name, state in states.items()}

    def read(self, kind: Kind, name: str) -> Float[Tensor, "*shape"]:
        """The parameter itself, or its moment (zeros before its first update)."""
        parameter = self._parameters[name]
        if kind == "weights":
            return parameter.detach().float()
        found: Tensor | None = self._moments(parameter).get(kind)
        return torch.zeros_like(parameter).float() if found is None else found.float()

    def begin(self, num_updates: Mapping[str, int]) -> None:
        """Moments of zeros for each parameter that has been moved."""
        for name, count in num_updates.items():
            if count:
                empty_moments(self._optimizer, self._parameters[name], count)

    def set(self, kind: Kind, name: str, value: Float[Tensor, "*shape"]) -> None:
        """Copy into the parameter or its moment."""
        parameter = self._parameters[name]
        target = parameter.data if kind == "weights" else self._moments(parameter).get(kind)
        if target is not None:
            target.copy_(value)

    def masters(self) -> list[Tensor]:
        """The parameters themselves."""
        return list(self._parameters.values())

    def forget(self, names: Collection[str]) -> None:
        """Without its entry AdamW begins anew."""
        for name in names:
            self._optimizer.state.pop(self._parameters[name], None)

    def _moments(self, parameter: nn.Parameter) -> dict[str, Any]:
        # The optimizer's table makes an entry for whatever it is asked for.
        found: dict[str, Any] = {}
        if parameter in self._optimizer.state:
            found = self._optimizer.state[parameter]
        return found


def empty_moments(optimizer: torch.optim.AdamW, parameter: Tensor, num_updates: int) -> None:
    """What AdamW holds for a parameter, as it makes it itself, with moments of zeros."""
    on_device = optimizer.defaults["fused"] or optimizer.defaults["capturable"]
    device = parameter.device if on_device else torch.device("cpu")
    optimizer.state[parameter] = {
        "step": torch.tensor(float(num_updates), dtype=torch.float32, device=device),
        **{moment: torch.zeros_like(parameter, requires_grad=False) for moment in MOMENTS},
    }
