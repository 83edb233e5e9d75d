"""What a teacher said, kept on disk: any student can learn from it, and no model is loaded.

    manifest.json              whose signals these are, and of which text
    tokenizer.safetensors      the teacher's tokenizer as it was read (``teachers.reading``)
    tokenizer/                 the same for ``transformers``, whose templates write chats
    shards/NAME.safetensors    the arrays of some documents
    shards/NAME.json           its documents by digest, whose they are, its size and SHA-256

A shard counts once its ``.json`` is there, which is written last. Signals know no student, so
there is nothing of a student in it. This package reads; ``orchestrator.signal_cache`` writes.
"""
