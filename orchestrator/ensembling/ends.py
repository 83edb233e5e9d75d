"""The tokens with which a member ends a text: by role, never by their strings."""

from losses.alignment.vocabulary import ENDS
from teachers.backends.transformers import LanguageModel
from teachers.chat_tokens import end_of_turn_id


def end_ids(model: LanguageModel) -> tuple[int, ...]:
    """Every id that ends the member's text or turn, rising.

    These are the ids whose role is the end, the token with which its chat template ends an
    assistant's turn, and the ends that the model's own generation settings name. An id that stands
    for text is never one of them.
    """
    vocabulary = model.tokenizer.vocabulary
    found: set[int | None] = {i for i, role in vocabulary.roles.items() if role in ENDS}
    turn = end_of_turn_id(model.tokenizer)
    settings = model.model.generation_config
    declared = None if settings is None else settings.eos_token_id
    found |= {turn, *(declared if isinstance(declared, list) else [declared])}
    return tuple(
        sorted(
            index
            for index in found
            if index is not None
            and index < len(vocabulary)
            and vocabulary.token_bytes[index] is None
        )
    )
