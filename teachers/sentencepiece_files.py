"""Fast tokenizers from SentencePiece model files, BPE or Unigram, with byte fallback or without."""

from enum import IntEnum
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, normalizers
from tokenizers import Tokenizer as FastTokenizer

from losses.alignment.vocabulary import METASPACE


class PieceType(IntEnum):
    """What SentencePiece says a piece is."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


UNIGRAM, BPE = 1, 2
NEVER_CHOSEN = 1000.0


def sentencepiece_tokenizer(path: Path) -> FastTokenizer:
    """Build the tokenizer of a ``tokenizer.model``; pieces, scores and flags come from the file.

    Raises:
        ValueError: neither BPE nor Unigram, or an option that changes how spaces are written.
    """
    proto = _read(path)
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    if trainer.model_type not in (UNIGRAM, BPE) or trainer.treat_whitespace_as_suffix:
        raise ValueError(
            f"{path}: model type {trainer.model_type}, spaces "
            f"{'after' if trainer.treat_whitespace_as_suffix else 'before'} words; expected a "
            "SentencePiece model of type Unigram (1) or BPE (2) with spaces before words"
        )
    fallback = any(piece.type == PieceType.BYTE for piece in proto.pieces)
    build = _bpe if trainer.model_type == BPE else _unigram
    tokenizer = FastTokenizer(build(proto, fallback))
    tokenizer.normalizer = normalizers.Sequence(_normalizers(normalizer))
    tokenizer.decoder = decoders.Sequence(_decoders(fallback, normalizer.add_dummy_prefix))
    _add_tokens(tokenizer, proto)
    return tokenizer


def _read(path: Path) -> Any:
    from transformers.utils import sentencepiece_model_pb2_new as sentencepiece  # slow import

    module: Any = sentencepiece  # its classes are made when it is imported
    proto = module.ModelProto()
    proto.ParseFromString(path.read_bytes())
    return proto


def _bpe(proto: Any, fallback: bool) -> models.BPE:
    """Scores order the merges; of equal scores the one with the longer left part goes first."""
    vocab = {piece.piece: index for index, piece in enumerate(proto.pieces)}
    scores = {p.piece: p.score for p in proto.pieces if p.type == PieceType.NORMAL}
    ordered = []
    for piece, score in scores.items():
        for cut in range(1, len(piece)):
            if piece[:cut] in scores and piece[cut:] in scores:
                ordered.append((-score, -cut, piece[:cut], piece[cut:]))
    ordered.sort(key=lambda merge: merge[:2])
    merges = [(left, right) for *_, left, right in ordered]
    unknown = proto.pieces[proto.trainer_spec.unk_id].piece
    return models.BPE(vocab, merges, unk_token=unknown, fuse_unk=True, byte_fallback=fallback)


def _unigram(proto: Any, fallback: bool) -> models.Unigram:
    """Control pieces get a score so low that no text is cut into them."""
    lowest = min(piece.score for piece in proto.pieces) - NEVER_CHOSEN
    never = (PieceType.CONTROL, PieceType.UNKNOWN, PieceType.UNUSED)
    pieces = [(p.piece, lowest if p.type in never else p.score) for p in proto.pieces]
    return models.Unigram(pieces, unk_id=proto.trainer_spec.unk_id, byte_fallback=fallback)


def _normalizers(flags: Any) -> list[normalizers.Normalizer]:
    steps: list[normalizers.Normalizer] = []
    if flags.precompiled_charsmap:
        steps.append(normalizers.Precompiled(flags.precompiled_charsmap))
    if flags.remove_extra_whitespaces:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    if flags.add_dummy_prefix:
        steps.append(normalizers.Prepend(METASPACE))
    return [*steps, normalizers.Replace(" ", METASPACE)]


def _decoders(fallback: bool, dummy_prefix: bool) -> list[decoders.Decoder]:
    steps: list[decoders.Decoder] = [decoders.Replace(METASPACE, " ")]
    steps += [decoders.ByteFallback()] if fallback else []
    steps.append(decoders.Fuse())
    return steps + ([decoders.Strip(" ", 1, 0)] if dummy_prefix else [])


def _add_tokens(tokenizer: FastTokenizer, proto: Any) -> None:
    """All at once: every call builds the search for added tokens anew."""
    kinds = {PieceType.CONTROL: True, PieceType.UNKNOWN: True, PieceType.USER_DEFINED: False}
    added = [
        AddedToken(piece.piece, normalized=False, special=kinds[piece.type])
        for piece in proto.pieces
        if piece.type in kinds
    ]
    tokenizer.add_tokens(added)
