"""The hypernetwork against the published class, its start, and what it must not depend on."""

import json
from pathlib import Path

import pytest
import torch

from orchestrator.hypernetwork.config import NetworkConfig
from orchestrator.hypernetwork.network import Hypernetwork

GOLDEN = Path(__file__).parents[2] / "golden" / "hypernetwork" / "hypernet.json"
SMALL = {"num_layers": 2, "num_heads": 2, "max_pieces": 4}


@pytest.fixture(scope="module")
def golden():
    found = json.loads(GOLDEN.read_text())
    parameters = {name: torch.tensor(v) for name, v in found["inputs"]["params"].items()}
    embeddings = torch.tensor(found["inputs"]["embeddings"])
    return parameters, embeddings, {k: torch.tensor(v) for k, v in found["outputs"].items()}


def network(num_stacked=2, hidden=4, trained=True, **options):
    """A network fitted to some rows; with ``trained`` its last linear map is not zero."""
    built = Hypernetwork(NetworkConfig(**{**SMALL, **options}), num_stacked, hidden)
    generator = torch.Generator().manual_seed(1)
    built.start(torch.randn(50, num_stacked, hidden, generator=generator) * 0.3 + 0.1, seed=0)
    if trained:
        with torch.no_grad():
            built.writes.weight.normal_(generator=generator)
    return built


@pytest.fixture
def pieces():
    """Five tokens of 1 to 4 pieces, and which are pieces."""
    generator = torch.Generator().manual_seed(2)
    lengths = torch.tensor([1, 4, 2, 3, 1])
    return torch.randn(5, 4, 2, 4, generator=generator), torch.arange(4) < lengths[:, None]


def test_published_network_without_attention(golden):
    """The peer's fitted rescalers never reach its parameters, so its output has none."""
    parameters, embeddings, outputs = golden
    built = network(attention=False, num_layers=1)
    layer, prefix = built.layers[0], "params.transformer.layers_0."
    linears = {
        f"{prefix}mlp.intermediate": layer.mlp[0],
        f"{prefix}mlp.output": layer.mlp[2],
        "params.output_linear": built.writes,
    }
    with torch.no_grad():
        built.scale.fill_(1.0)
        built.shift.fill_(0.0)
        built.positions.copy_(parameters["params.transformer.position_embeddings.embedding"])
        for name, linear in linears.items():
            linear.weight.copy_(parameters[f"{name}.kernel"].T)
            linear.bias.copy_(parameters[f"{name}.bias"])
    found = built(embeddings, torch.ones(6, 1, dtype=torch.bool))
    torch.testing.assert_close(found, outputs["predicted"], rtol=1e-5, atol=1e-5)


def test_published_fit_of_the_scale(golden):
    _, embeddings, outputs = golden
    built = network()
    built.start(embeddings[:, 0], seed=0)
    torch.testing.assert_close(built.scale[None], outputs["rescaler_w"])
    torch.testing.assert_close(built.shift[None], outputs["rescaler_b"])


def test_untrained_gives_the_first_piece_bit_by_bit(pieces):
    for attention in (True, False):
        assert torch.equal(network(trained=False, attention=attention)(*pieces), pieces[0][:, 0])


def test_untrained_gives_the_mean_over_all_pieces(pieces):
    rows, mask = pieces
    found = network(trained=False, residual="mean", max_pieces=2)(*pieces)
    expected = [row[real].mean(0) for row, real in zip(rows, mask, strict=True)]
    torch.testing.assert_close(found, torch.stack(expected))


@pytest.mark.parametrize("residual", ["first", "mean"])
def test_padding_is_not_read(pieces, residual):
    rows, mask = pieces
    built = network(residual=residual, max_pieces=7)
    found = built(rows, mask)
    other = torch.where(mask[..., None, None], rows, 1e3)
    wider = torch.cat([other, torch.full((5, 3, 2, 4), -1e3)], dim=1)
    mask = torch.cat([mask, torch.zeros(5, 3, dtype=torch.bool)], dim=1)
    torch.testing.assert_close(built(wider, mask), found)
    alone = built(rows[2:3, :2], mask[2:3, :2])
    torch.testing.assert_close(alone, found[2:3])


def test_tokens_do_not_see_each_other_and_pieces_have_an_order(pieces):
    rows, mask = pieces
    built, order = network(), torch.tensor([3, 1, 4, 0, 2])
    found = built(rows, mask)
    torch.testing.assert_close(built(rows[order], mask[order]), found[order])
    swapped = rows[1:2, [0, 2, 1, 3]]
    assert not torch.allclose(built(swapped, mask[1:2]), found[1:2])


def test_pieces_beyond_the_limit_are_not_read_by_the_layers(pieces):
    rows, mask = pieces
    changed = rows.clone()
    changed[:, 2:] += 1
    assert torch.equal(network(max_pieces=2)(rows, mask), network(max_pieces=2)(changed, mask))
    assert not torch.equal(network()(rows, mask), network()(changed, mask))


@pytest.mark.parametrize(
    "option",
    [
        {"residual": "mean"},
        {"attention": False},
        {"num_layers": 1},
        {"num_heads": 4},
        {"width": 6},
        {"max_pieces": 2},
        {"alpha": 2.0},
    ],
    ids=str,
)
def test_every_option_changes_the_result(pieces, option):
    assert not torch.allclose(network()(*pieces), network(**option)(*pieces))


def test_last_layer_reads_one_row_as_all_layers_would(pieces):
    rows, mask = pieces
    layer = network().layers[0]
    states = rows.flatten(2)
    torch.testing.assert_close(layer(states, mask, 1), layer(states, mask, 4)[:, :1])


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match=r"network\.num_heads: 3 heads do not divide the width 8"):
        network(num_heads=3)
    network(num_heads=3, attention=False)
