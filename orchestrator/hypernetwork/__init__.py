"""Hypernetworks: a network that predicts the embedding rows of a vocabulary it never saw.

It reads the rows of the pieces by which the model's own tokenizer spells each new token, and is
trained once for a model, on vocabularies drawn from text.

Source: Minixhofer et al. 2024, arXiv:2405.07883 (ZeTT); with a residual and as self-distillation,
Minixhofer et al. 2025, arXiv:2503.20083, use case 3.
"""
