"""Dual-space distillation: each model's hidden states, brought into the other's space.

The steps of the method ``dskd``:

    states            the teacher's signal: hidden states, with its tokens' embeddings or without
    shared_tokens     tokens of the same bytes in both vocabularies
    attention         version 1: every row of one model is a mixture of rows of the other
    projectors        linear maps for rows that stand for the same token
    shared_logits     version 2: the maps that keep the logits of shared tokens
    spaces            the two losses, one in each space
"""
