"""What both models say about a common chunk, as masses that can be compared.

The methods ``p_kl``, ``h_kl``, ``gold`` and ``uld`` share these steps, in this order:

    top_tokens        the teacher's signal: its most likely tokens and the rest as one number
    chunk_rows        where the common chunks begin on both sides
    columns           W by teacher token; ``learned_w`` trains its weights
    matched           pairs of tokens that a partition loss compares one by one
    teacher_cells     the teacher's masses: listed tokens, the realised chunk, the rest
    student_cells     the student's masses on the same cells, through W
    cell_divergence   KL and Jensen-Shannon of the two
    remainders        what has no partner, sorted (``sorted_masses``)

``published_means`` and ``published_merges`` are the chunk distributions of the published codes.
"""
