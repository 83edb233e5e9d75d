"""Starting a smaller student from a larger model: keep some of its layers."""

from collections.abc import Sequence

from torch import nn
from transformers import PreTrainedModel


def layer_list(model: PreTrainedModel) -> nn.ModuleList:
    """The decoder's list of transformer layers.

    Raises:
        ValueError: the model has no list as long as its configuration says.
    """
    depth = model.config.get_text_config().num_hidden_layers
    for module in model.base_model.children():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return module
    raise ValueError(f"{type(model).__name__} has no list of {depth} layers to choose from")


def kept_layers(depth: int, keep: Sequence[int] | None, drop: Sequence[int] | None) -> list[int]:
    """Indices of the layers that stay, in order.

    Raises:
        ValueError: an index is outside the model, or nothing is left.

    >>> kept_layers(5, None, [1, 3])
    [0, 2, 4]
    """
    chosen = list(range(depth)) if keep is None else sorted(set(keep))
    outside = [i for i in [*chosen, *(drop or [])] if not 0 <= i < depth]
    if outside:
        raise ValueError(f"no layer {outside[0]}: the model has layers 0 to {depth - 1}")
    kept = [i for i in chosen if i not in set(drop or [])]
    if not kept:
        raise ValueError("no layer is left: keep at least one")
    return kept


def keep_layers(model: PreTrainedModel, kept: Sequence[int]) -> None:
    """Cut the model down to these layers, in place, with its configuration."""
    layers = layer_list(model)
    if len(kept) == len(layers):
        return
    chosen = [layers[index] for index in kept]
    for name, module in list(model.base_model.named_children()):
        if module is layers:
            setattr(model.base_model, name, nn.ModuleList(chosen))
    config = model.config.get_text_config()
    config.num_hidden_layers = len(chosen)
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[index] for index in kept]
    for index, layer in enumerate(chosen):
        for module in layer.modules():
            if "layer_idx" in vars(module):
                vars(module)["layer_idx"] = index
