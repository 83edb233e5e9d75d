"""Frozen models that turn documents into signals, and the tokenizers they read with.

A teacher knows nothing of the student. This package may import `losses` and is imported only by
`orchestrator`.
"""
