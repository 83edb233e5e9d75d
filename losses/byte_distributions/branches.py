"""On-path covers, and histories that leave the document's tokens for one token of another kind.

Where a shorter token would have ended inside one of the document's own, and that is not too
unlikely, the model is asked what it would say there. All such branches of a document are scored in
one extra pass. A branch is not followed any further, so rare segmentations stay out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from losses.byte_distributions.asked import Answer, Asked, ask_hidden
from losses.byte_distributions.covers import Entries, added_covers, path_walks, prefix_logmass
from losses.byte_distributions.paths import ask_path, reading_of
from losses.byte_distributions.reading import Reading
from losses.byte_distributions.sorted_vocabulary import SortedVocabulary, Walks, spread
from losses.continuations import Continuation, Continuations
from losses.prediction import Prediction


@dataclass(frozen=True)
class Branches:
    """Histories that end with a token which is not the document's.

    Args:
        slot: where each ends.
        logweight: its log-probability (nats), on the same scale as the path's.
        continuations: its tokens.
    """

    slot: Int64[np.ndarray, "branch"]
    logweight: Float64[Tensor, "branch"]
    continuations: Sequence[Continuation]


def branch_masses(
    prediction: Prediction, continuations: Continuations, epsilon: float
) -> Float64[Tensor, "row 257"]:
    """The masses of the next symbols over on-path covers and branches, each row up to a factor.

    Args:
        prediction: of the document.
        continuations: the model.
        epsilon: a branch is opened if its share of the mass of its prefix is larger.
    """
    reading, table = reading_of(prediction)
    walks = reading.walk(table)
    path, branches = _open_branches(prediction, reading, table, walks, epsilon)
    if not len(branches.slot):
        return added_covers(reading, [path])
    hidden = continuations.hidden_after(branches.continuations)
    branch, walk = _walks_from(walks, branches.slot)
    wanted = reading.wanted[walks.at[walk]]
    branch, walk = branch[wanted], walk[wanted]
    asked = Asked.of(table, branch, walks.node[walk])
    elements = prediction.chunk_size * prediction.head.num_valid
    answer = ask_hidden(prediction.head, hidden, asked, elements)
    weight = branches.logweight[torch.from_numpy(branch).to(hidden.device)]
    return added_covers(reading, [path, (Entries(branch, walks.at[walk], weight), asked, answer)])


def _open_branches(
    prediction: Prediction,
    reading: Reading,
    table: SortedVocabulary,
    walks: Walks,
    epsilon: float,
) -> tuple[tuple[Entries, Asked, Answer], Branches]:
    """The path's own covers, and the branches that leave it."""
    reaching = np.zeros(len(reading.content), dtype=bool)
    reaching[walks.start[reading.wanted[walks.at]]] = True
    path = path_walks(reading, walks)
    path = path.where(reaching[path.at])
    entry, ids = _other_tokens(reading, table, path)
    found = ask_path(prediction, reading, table, path, (entry, ids))
    entries, _, answer = found.part
    prefix = prefix_logmass(entries, answer, path.start < path.at, len(reading.content))
    device, slots = prediction.device, path.at[entry]
    logweight = entries.logweight[torch.from_numpy(entry).to(device)] + found.others
    share = torch.exp(logweight - prefix[torch.from_numpy(slots).to(device)])
    kept = torch.nonzero(share > epsilon).squeeze(-1)
    opened = kept.cpu().numpy()
    positions = reading.tokens[reading.piece[path.start[entry[opened]]]] - 1
    tokens = zip(positions.tolist(), ids[opened].tolist(), strict=True)
    continuations = [Continuation(position, (token,)) for position, token in tokens]
    return found.part, Branches(slots[opened], logweight[kept], continuations)


def _walks_from(
    walks: Walks, slots: Int64[np.ndarray, "branch"]
) -> tuple[Int64[np.ndarray, "walk"], Int64[np.ndarray, "walk"]]:
    """The branch and the number of every walk that begins where a branch ends."""
    return spread(
        np.searchsorted(walks.start, slots, "left"), np.searchsorted(walks.start, slots, "right")
    )


def _other_tokens(
    reading: Reading, table: SortedVocabulary, path: Walks
) -> tuple[Int64[np.ndarray, "token"], Int64[np.ndarray, "token"]]:
    """The tokens that end just where an entry stands, without the document's own."""
    trie = table.trie
    first = trie.first[path.node]
    ends = np.where(path.start < path.at, trie.whole[path.node], 0)
    entry, column = spread(first, first + ends)
    ids, piece = trie.ids[column], reading.piece[path.start[entry]]
    behind = reading.starts[piece] + reading.sizes[piece]
    own = (ids == reading.ids[piece]) & (path.at[entry] == behind)
    return entry[~own], ids[~own]
