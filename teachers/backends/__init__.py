"""Where a model's predictions come from."""
