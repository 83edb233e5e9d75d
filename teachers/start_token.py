"""The token that a model reads before a document's first token."""

from typing import TYPE_CHECKING

from tokenizers import Tokenizer as FastTokenizer

from losses.alignment.vocabulary import Vocabulary
from teachers.sealing import unsealed

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

DOCUMENT_SEPARATOR = "<|endoftext|>"


def find_start(
    fast: "PreTrainedTokenizerFast", vocabulary: Vocabulary, name: str, start_token: str | None
) -> int | None:
    """Id of the start token; None if there is none.

    Args:
        fast: the loaded tokenizer.
        vocabulary: its ids.
        name: used in error messages.
        start_token: the user's choice; None takes what the tokenizer itself puts first, else
            ``<|endoftext|>`` if it is a special token, else its ``bos_token``.

    Raises:
        ValueError: the chosen token is no special token.
    """
    special = {unsealed(str(fast.convert_ids_to_tokens(i))): i for i in vocabulary.roles}
    if start_token is not None:
        if start_token not in special:
            raise ValueError(
                f'{name}: start_token "{start_token}" is not a special token; '
                f"it has {', '.join(sorted(special)[:20])}"
            )
        return special[start_token]
    backend: FastTokenizer = fast.backend_tokenizer
    own = backend.encode("", add_special_tokens=True).ids
    if own and own[0] in vocabulary.roles:
        return int(own[0])
    bos = fast.bos_token_id
    return special.get(DOCUMENT_SEPARATOR, None if bos is None else int(bos))
