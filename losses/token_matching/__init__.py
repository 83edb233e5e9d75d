"""Two tokenizations and two vocabularies matched by edit distance: what cdm and mined share."""
