"""Several models as one: their mean scores texts and writes them.

Members that share a vocabulary are mixed token by token, exactly; any others byte by byte, which
is what every tokenizer has in common.

options    what is mixed and how
ends       the tokens with which a member ends a text, by role
prompts    a prompt as each member's own tokenizer and template write it
context    what a member has read, with its keys and values
tokens     a member's next token, on the outcomes that all members share
bytes      a member's next byte: segmentations followed while the text grows
decoding   the loop that mixes, draws and lets all members read
scoring    likelihoods of given texts
scores     bits per byte of the ensemble beside its members'
ensemble   the class ``Ensemble``
"""

from orchestrator.ensembling.decoding import Decoding, Written
from orchestrator.ensembling.ensemble import Ensemble
from orchestrator.ensembling.options import EnsembleMember, EnsembleOptions, Search
from orchestrator.ensembling.scores import DocumentScores, EnsembleScores

__all__ = [
    "Decoding",
    "DocumentScores",
    "Ensemble",
    "EnsembleMember",
    "EnsembleOptions",
    "EnsembleScores",
    "Search",
    "Written",
]
