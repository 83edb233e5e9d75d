"""What a teacher would say next, written in the student's vocabulary.

The method ``sedi`` takes these steps, in this order:

    teacher_rows    the teacher's signal: its likely tokens and the entropy of each row
    candidates      the likely continuations of each common group of tokens
    candidate_texts their texts, joined from bytes
    reencoder       these texts in the student's tokens, remembered over documents
    pseudo_labels   the scores that the student's rows get: what the method reads
    adapter         the trained scale of the student's own logits
    objective       KL and the difference of entropies; ``published`` is the paper's form

A group is a stretch of whole characters that both tokenizers cut out, as short as possible.
"""
