"""Grouping documents into batches under a token budget, padded or packed."""

from collections.abc import Sequence


def token_budget_batches(
    lengths: Sequence[int], token_budget: int, *, packing: bool = False
) -> list[list[int]]:
    """Indices in batches whose size, padding included, stays within the budget, longest first.

    A single sequence above the budget gets a batch of its own.

    Args:
        lengths: tokens of each sequence.
        token_budget: rows times the longest sequence of a batch.
        packing: several sequences share a row, as in ``packed_rows``.

    >>> token_budget_batches([3, 10, 4, 2], 10)
    [[1], [2, 0], [3]]
    >>> token_budget_batches([3, 10, 4, 2, 1], 20, packing=True)
    [[1, 2, 0, 3, 4]]
    """
    batches: list[_Rows] = []
    for index in _longest_first(lengths):
        length = lengths[index]
        if not any(batch.take(index, length) for batch in batches):
            batches.append(_Rows(length, max(1, token_budget // max(1, length)), packing))
            batches[-1].take(index, length)
    return [batch.members for batch in batches]


def packed_rows(lengths: Sequence[int]) -> list[list[int]]:
    """Indices in rows no longer than the longest sequence, each in the first row with room.

    >>> packed_rows([3, 10, 4, 2, 1])
    [[1], [2, 0, 3, 4]]
    """
    batch = _Rows(max(lengths), len(lengths), packing=True)
    for index in _longest_first(lengths):
        batch.take(index, lengths[index])
    return batch.rows


def _longest_first(lengths: Sequence[int]) -> list[int]:
    return sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))


class _Rows:
    """Rows of one batch, filled in the order in which sequences come."""

    def __init__(self, width: int, max_rows: int, packing: bool) -> None:
        self.rows: list[list[int]] = []
        self.members: list[int] = []
        self._room: list[int] = []
        self._width = width
        self._max_rows = max_rows
        self._packing = packing

    def take(self, index: int, length: int) -> bool:
        """Put a sequence into the first row with room, or a new row; False if there is none."""
        row = self._row_for(length)
        if row == self._max_rows:
            return False
        if row == len(self.rows):
            self.rows.append([])
            self._room.append(self._width)
        self.rows[row].append(index)
        self._room[row] -= length
        self.members.append(index)
        return True

    def _row_for(self, length: int) -> int:
        if self._packing:
            for row, room in enumerate(self._room):
                if length <= room:
                    return row
        return len(self.rows)
