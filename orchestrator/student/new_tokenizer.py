"""The tokenizer of a student that gets another one than its ``init`` has.

It is written once into the cache folder, under a digest of all that it is made of, and opened from
there by every process: what a run trains with is what its checkpoints hold.
"""

import hashlib
import json
import logging
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from losses.alignment.vocabulary import Family
from orchestrator.assets import cache_folder
from orchestrator.atomic import atomic_folder
from orchestrator.student.embeddings.options import BYTES, EmbeddingOptions
from teachers.sealing import unsealed
from teachers.source import ModelSource
from teachers.tokenizer import Tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

log = logging.getLogger(__name__)

TOKENIZER_NAME = "student.tokenizer"
RECIPE = 3
"""Raise it whenever the same parts give another tokenizer."""
DECIDING = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "config.json",
)
"""Files of a folder with a tokenizer.json by which ``AutoTokenizer`` builds a tokenizer."""


@dataclass(frozen=True)
class NewTokenizer:
    """Which tokenizer a student gets, and how its embeddings come about.

    Args:
        reference: ``bytes``, or an absolute folder or hub id.
        options: see ``EmbeddingOptions``.
    """

    reference: str
    options: EmbeddingOptions

    def load(self, init: ModelSource, source: Tokenizer) -> Tokenizer:
        """The student's tokenizer.

        Args:
            init: where the model comes from.
            source: its own tokenizer, loaded.

        Raises:
            OSError: a file is missing, or the cache folder may not be written.
            ValueError: there is no tokenizer that can be used exactly, or an option is for
                another kind of tokenizer.
        """
        self.options.check_bytes(self.reference == BYTES)
        own = replace(init, path=self.reference, revision=None)
        if self.options.special_tokens == "target":
            return _checked(Tokenizer.load(own, source.name))
        folder = _written(source, None if self.reference == BYTES else own)
        start = source.start_id
        name = None if start is None else unsealed(str(source.fast.convert_ids_to_tokens(start)))
        found = replace(init, path=str(folder), revision=None, trust_remote_code=False)
        return _checked(Tokenizer.load(found, source.name, name))


def _written(source: Tokenizer, target: ModelSource | None) -> Path:
    """The folder of the tokenizer with the source's special tokens; bytes without a target."""
    parts = [RECIPE, source.fingerprint, _digest(target) if target else BYTES]
    digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    folder = cache_folder() / "student_tokenizers" / digest[:16]
    if folder.is_dir():
        return folder
    fast = _built(source, target)
    try:
        with atomic_folder(folder) as partial:
            fast.save_pretrained(partial)
    except OSError as error:
        if not folder.is_dir():
            raise OSError(
                f"the cache folder cannot be written ({error}); expected one that can: name it in "
                "TUTELAGE_CACHE"
            ) from error
        log.debug("another process wrote %s", folder)
    return folder


def _built(source: Tokenizer, target: ModelSource | None) -> "PreTrainedTokenizerFast":
    """What is written: imported only where nothing is there yet, since transformers is slow."""
    from orchestrator.student.byte_tokenizer import byte_tokenizer
    from orchestrator.student.merged_tokenizer import merged_tokenizer

    if target is None:
        return byte_tokenizer(source)
    return merged_tokenizer(source, Tokenizer.load(target, TOKENIZER_NAME))


def _digest(target: ModelSource) -> str:
    """Of all that decides how it cuts a text, without loading it where its files are at hand."""
    folder = Path(target.path)
    if not (folder / DECIDING[0]).is_file():
        return Tokenizer.load(target, TOKENIZER_NAME).cutting
    found = [file for name in DECIDING if (file := folder / name).is_file()]
    digests = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in found}
    return json.dumps([version("transformers"), digests])


def _checked(tokenizer: Tokenizer) -> Tokenizer:
    """Warn where the tokenizer cannot write every text."""
    if tokenizer.family is Family.METASPACE:
        log.warning(
            "the new tokenizer turns characters that it has no token for into its unknown token; "
            "documents with such characters will be left out"
        )
    return tokenizer
