"""Another model's way of cutting text with the student's own special tokens and chat template.

The new tokenizer's own special tokens keep their ids, so that no row moves, and stay unused; the
student's are added behind, unless one of the same name is there.
"""

from collections.abc import Mapping

from tokenizers import Tokenizer as FastTokenizer
from transformers import PreTrainedTokenizerFast

from orchestrator.student.kept_specials import KeptSpecials
from orchestrator.student.sealed_template import unseal_template
from teachers.tokenizer import Tokenizer


def merged_tokenizer(source: Tokenizer, target: Tokenizer) -> PreTrainedTokenizerFast:
    """The target's tokens with the source's special tokens, roles and chat template.

    Raises:
        ValueError: the target's ids have a gap into which the special tokens fall.
    """
    kept = KeptSpecials.of(source)
    target.backend.no_truncation()
    target.backend.no_padding()
    backend = FastTokenizer.from_str(target.backend.to_str())
    before = backend.get_vocab(with_added_tokens=True)
    backend.add_special_tokens(list(kept.tokens))
    ids = backend.get_vocab(with_added_tokens=True)
    _refuse_shared(before, ids, target.name)
    backend.post_processor = kept.processor(ids)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        clean_up_tokenization_spaces=False,
        padding_side=source.fast.padding_side,
        **kept.named,
    )
    if not source.chat.is_plain:
        fast.chat_template = unseal_template(source.fast.chat_template)
    return fast


def _refuse_shared(before: Mapping[str, int], after: Mapping[str, int], name: str) -> None:
    """A token that was added must have a row of the embeddings to itself."""
    taken = {index: token for token, index in before.items()}
    for token in after.keys() - before.keys():
        if (index := after[token]) in taken:
            raise ValueError(
                f"{name}: the ids of its tokens are not consecutive, so {token} would get the id "
                f"{index} of {taken[index]}; expected a tokenizer without gaps, or "
                "embeddings.special_tokens: target"
            )
