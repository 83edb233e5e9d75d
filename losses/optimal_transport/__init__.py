"""Optimal transport between two models' predictions, of tokens and of sequences.

The steps of the method ``multilevel_ot``:

    columns           the tokens that are most likely over a document, and their probabilities
    sinkhorn          the cost of moving one sequence of rows onto the other
    levels            the three losses: by token, by logarithm, by sequence
"""
