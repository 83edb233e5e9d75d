"""Another model's way of cutting text with the student's own special tokens and chat template.

The new tokenizer's own special tokens keep their ids, so that no row moves, and stay unused; the
student's are added behind, unless one of the same name is there.
"""

from tokenizers import Tokenizer as FastTokenizer
from transformers import PreTrainedTokenizerFast

from orchestrator.student.kept_specials import KeptSpecials
from teachers.tokenizer import Tokenizer


def merged_tokenizer(source: Tokenizer, target: Tokenizer) -> PreTrainedTokenizerFast:
    """The target's tokens with the source's special tokens, roles and chat template."""
    kept = KeptSpecials.of(source)
    target.backend.no_truncation()
    target.backend.no_padding()
    backend = FastTokenizer.from_str(target.backend.to_str())
    backend.add_special_tokens(list(kept.tokens))
    backend.post_processor = kept.processor(backend.get_vocab(with_added_tokens=True))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        clean_up_tokenization_spaces=False,
        padding_side=source.fast.padding_side,
        **kept.named,
    )
    if source.chat.has_own:
        fast.chat_template = source.fast.chat_template
    return fast
