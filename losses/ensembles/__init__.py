"""Ensembles of targets: several teachers' targets become one, then there is one loss.

That needs outcomes that all teachers share. There are three such spaces, each with its method:
bytes (``bld``), chunks of bytes on the common borders (``alm``) and the student's vocabulary
(``kl``). The targets of other methods lie in each teacher's own tokens, or have no outcomes.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from losses.base import Method
from losses.ensembles.bytes import ByteEnsemble
from losses.ensembles.chunks import ChunkEnsemble
from losses.ensembles.ensemble import Ensemble, EnsemblePair, Said
from losses.ensembles.student_vocabulary import VocabularyEnsemble
from losses.mixture.targets import Mean

SPACES: Mapping[str, str] = MappingProxyType(
    {
        "bld": "bytes",
        "alm": "chunks on the common borders",
        "kl": "the student's vocabulary",
    }
)
"""Where the targets of each method meet."""

_ENSEMBLES: Mapping[str, Callable[[Any, Mean], Ensemble]] = MappingProxyType(
    {"bld": ByteEnsemble, "alm": ChunkEnsemble, "kl": VocabularyEnsemble}
)

__all__ = ["SPACES", "Ensemble", "EnsemblePair", "Said", "ensemble_of"]


def ensemble_of(name: str, method: Method, mean: Mean) -> Ensemble:
    """The ensemble of teachers that all feed this method.

    Args:
        name: the method's name in the run file.
        method: with its options.
        mean: arithmetic or geometric.

    Raises:
        ValueError: its targets do not meet in a shared space, or an option has no meaning there.
    """
    if name not in SPACES:
        spaces = ", ".join(f"{method} ({space})" for method, space in SPACES.items())
        raise ValueError(
            f"the targets of {name} do not lie in a space that teachers share, as do those of "
            f"{spaces}"
        )
    return _ENSEMBLES[name](method, mean)
