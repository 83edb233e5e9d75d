"""New embedding rows for a new tokenizer: pure functions of two vocabularies, numpy and torch in.

Every way but the hypernetwork's says each new row as weights over old rows (``RowMixture``), so one
rule serves input embeddings, output embeddings and the head's bias alike. Nothing is imported here:
the run file's schema reads ``options`` and must stay light.
"""
