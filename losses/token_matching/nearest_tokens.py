"""For each token of one vocabulary the nearest one of another, by edit distance.

Tokens are looked up when they are first asked for and then kept: a whole vocabulary against
another one would be many billions of distances, and most tokens are never likely.
"""

from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Int, Int64
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cdist

from losses.alignment.projection import Projection
from losses.alignment.vocabulary import Vocabulary
from losses.token_matching.dynamic_mapping import exact_partners
from losses.token_matching.spelling import spelled, spellings

SOURCES_AT_ONCE = 64
"""So many times the other vocabulary's size are the distances held at once."""
NOT_ASKED, NONE = -2, -1


class NearestTokens:
    """The table from ``source`` to ``target``.

    A token with the same bytes (or role) is the nearest one; other special tokens have none. Of
    several at the same distance the first in the order of lengths is taken: from the shortest if
    the token is shorter than the target's middle one, else from the longest.

    Args:
        source: whose tokens are looked up.
        target: where.
        exact: the partner of each source token, -1 for none.
        limit: a partner's distance over the sum of both lengths is below this; None: no limit.

    Source: MinED; the order of ties is that of bminixhofer/tokenkit ``compute_mined_mapping``.
    """

    def __init__(
        self,
        source: Vocabulary,
        target: Vocabulary,
        exact: Int64[np.ndarray, "source_id"],
        limit: float | None,
    ) -> None:
        self.limit = limit
        self._sources = spellings(source, spaces=True)
        texts = np.array([bool(content) for content in source.token_bytes])
        unknown = np.where(texts[: len(exact)], NOT_ASKED, NONE)
        self._table = np.where(exact >= 0, exact, unknown)
        all_targets = spellings(target, spaces=True)
        ids = np.array([i for i, b in enumerate(target.token_bytes) if b], dtype=np.int64)
        widths = np.array([len(all_targets[i]) for i in ids.tolist()], dtype=np.int64)
        order = np.argsort(widths, kind="stable")
        self._ids, self._widths = ids[order], widths[order]
        self._targets = spelled(all_targets, self._ids)

    def of(self, ids: Int[np.ndarray, "*shape"]) -> Int64[np.ndarray, "*shape"]:
        """The nearest token of each, -1 where there is none."""
        wanted = np.unique(ids)
        self._look_up(wanted[self._table[wanted] == NOT_ASKED])
        found: Int64[np.ndarray, "*shape"] = self._table[ids]
        return found

    def _look_up(self, ids: Int[np.ndarray, "id"]) -> None:
        if not len(self._targets):
            self._table[ids] = NONE
            return
        widths = np.array([len(self._sources[index]) for index in ids.tolist()], dtype=np.int64)
        order = np.argsort(widths, kind="stable")
        for first in range(0, len(ids), SOURCES_AT_ONCE):
            block = order[first : first + SOURCES_AT_ONCE]
            self._table[ids[block]] = self._nearest(ids[block], widths[block])

    def _nearest(
        self, ids: Int[np.ndarray, "source"], widths: Int64[np.ndarray, "source"]
    ) -> Int64[np.ndarray, "source"]:
        window = self._window(widths)
        near, most = self._widths[window], None
        if self.limit is not None and len(near):
            most = int(self.limit * (widths[-1] + near[-1]))
        if not len(near):
            return np.full(len(ids), NONE)
        distance = cdist(
            spelled(self._sources, ids),
            self._targets[window],
            scorer=Levenshtein.distance,
            score_cutoff=most,
            dtype=np.int32,
            workers=1,
        )
        allowed = self._allowed(distance, widths, near)
        distance = np.where(allowed, distance, np.iinfo(np.int32).max)
        first = distance.argmin(-1)
        last = len(near) - 1 - distance[:, ::-1].argmin(-1)
        short = widths < self._widths[len(self._widths) // 2]
        place = np.where(short, first, last)
        found = self._ids[window][place]
        return np.where(allowed[np.arange(len(ids)), place], found, NONE)

    def _window(self, widths: Int64[np.ndarray, "source"]) -> slice:
        """Targets whose length alone does not put them beyond the limit."""
        if self.limit is None or self.limit >= 1:
            return slice(0, len(self._targets))
        least = widths[0] * (1 - self.limit) / (1 + self.limit)
        most = widths[-1] * (1 + self.limit) / (1 - self.limit)
        return slice(*np.searchsorted(self._widths, [least, np.nextafter(most, np.inf)]).tolist())

    def _allowed(
        self,
        distance: Int[np.ndarray, "source target"],
        widths: Int64[np.ndarray, "source"],
        near: Int64[np.ndarray, "target"],
    ) -> Bool[np.ndarray, "source target"]:
        if self.limit is None:
            return np.ones(distance.shape, dtype=bool)
        allowed: Bool[np.ndarray, "source target"] = distance < self.limit * (
            widths[:, None] + near
        )
        return allowed


@lru_cache(maxsize=8)
def nearest_students(
    teacher: Vocabulary, student: Vocabulary, projection: Projection, limit: float | None
) -> NearestTokens:
    """The table of a pair, kept as long as the pair is in use."""
    return NearestTokens(teacher, student, exact_partners(projection).to_student, limit)
