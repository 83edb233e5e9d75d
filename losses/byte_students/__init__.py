"""The student's half of a loss on bytes: where its bytes stand and what predicts them.

    slots        a student token's bytes that the teacher says something about
    heads        extra outputs that predict the bytes of a whole token
    tempering    a model at another temperature
    comparison   cross-entropy and KL of each slot

Without heads, ``losses.byte_distributions`` turns the student's own next-token distributions into
distributions over bytes.
"""
