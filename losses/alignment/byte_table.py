"""The bytes of many tokens as one array, so that joining them needs no loop over tokens."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64, UInt8


@dataclass(frozen=True)
class ByteTable:
    """All tokens' bytes back to back; token ``i`` is ``content[starts[i]:starts[i] + widths[i]]``.

    Tokens without bytes have width 0.
    """

    content: UInt8[np.ndarray, "byte"]
    starts: Int64[np.ndarray, "id"]
    widths: Int64[np.ndarray, "id"]

    @classmethod
    def of(cls, token_bytes: Sequence[bytes | None]) -> "ByteTable":
        """Lay out the bytes of every id in order."""
        contents = [content or b"" for content in token_bytes]
        widths = np.fromiter(map(len, contents), dtype=np.int64, count=len(contents))
        content = np.frombuffer(b"".join(contents), dtype=np.uint8)
        return cls(content, np.cumsum(widths) - widths, widths)

    def gather(
        self, starts: Int64[np.ndarray, "piece"], widths: Int64[np.ndarray, "piece"]
    ) -> UInt8[np.ndarray, "joined"]:
        """Join the pieces of ``content`` that begin at ``starts``.

        >>> table = ByteTable.of([b"ab", None, b"cde"])
        >>> table.gather(table.starts[[2, 0]], table.widths[[2, 0]]).tobytes()
        b'cdeab'
        """
        ends = np.cumsum(widths)
        source = np.repeat(starts - (ends - widths), widths)
        source += np.arange(len(source))
        joined: UInt8[np.ndarray, "joined"] = self.content[source]
        return joined
