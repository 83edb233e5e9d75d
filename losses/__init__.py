"""The mathematics of distillation: signals, alignment, losses and mixtures in torch and numpy.

Nothing here knows Ray, DeepSpeed, a tokenizer library or a file format of runs; `teachers` and
`orchestrator` build on this package and never the other way round.
"""
