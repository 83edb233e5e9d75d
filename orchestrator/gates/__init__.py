"""Gates: what must hold on the loaded models before the first step; docs/gates.md explains them."""
