"""A teacher behind an OpenAI-compatible server that tells the log-probabilities of a prompt.

The server never sees text: token ids go out, log-probabilities come back and are checked against
what was sent.
"""
