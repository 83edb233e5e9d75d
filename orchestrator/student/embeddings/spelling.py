"""How alike two tokens are spelled: vectors whose cosine is high where they share byte n-grams.

Each n-gram has a fixed random direction; a token is the sum of those of its n-grams, the rare ones
heavier. No corpus and no trained vectors are needed.

Source: the n-grams of fastText, Bojanowski et al. 2017, arXiv:1607.04606, with random directions
    in the place of trained ones.
"""

from collections.abc import Iterator, Sequence
from zlib import crc32

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor
from torch.nn.functional import embedding_bag, normalize

WIDTH = 256
"""Numbers in a vector; two tokens without a common n-gram have a cosine of about 0 ± 0.06."""
BUCKETS = 1 << 16
LONGEST = 5
SEED = 0
BEGIN, END = b"<", b">"


def ngrams(content: bytes) -> Iterator[bytes]:
    """Parts of 2 to 5 bytes, of the token between its marks of begin and end, and the whole.

    >>> sorted(ngrams(b"ab"))
    [b'<a', b'<ab', b'<ab>', b'ab', b'ab>', b'b>']
    """
    marked = BEGIN + content + END
    for size in range(2, LONGEST + 1):
        for start in range(len(marked) - size + 1):
            yield marked[start : start + size]


def spelling_vectors(contents: Sequence[bytes]) -> Float32[Tensor, "token width"]:
    """A unit vector for each token; all those to be compared must be given together."""
    rows = [np.asarray([crc32(part) % BUCKETS for part in ngrams(c)]) for c in contents]
    flat = torch.from_numpy(np.concatenate(rows))
    sizes = torch.tensor([len(row) for row in rows])
    counts = torch.bincount(flat, minlength=BUCKETS).float()
    rarity = torch.log1p(len(rows) / counts.clamp(min=1.0))
    generator = torch.Generator().manual_seed(SEED)
    directions = torch.randn(BUCKETS, WIDTH, generator=generator) * rarity[:, None]
    offsets = torch.cumsum(sizes, 0) - sizes
    summed: Tensor = embedding_bag(flat, directions, offsets, mode="sum")
    return normalize(summed, dim=-1)
