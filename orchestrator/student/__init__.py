"""The student: what DeepSpeed wraps, how it is trained, and the Ray shell around it."""
