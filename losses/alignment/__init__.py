"""The common ground of two tokenizers: vocabularies as bytes, byte offsets, common chunks."""
