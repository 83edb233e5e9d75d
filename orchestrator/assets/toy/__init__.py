"""Two toy teachers, a toy student and text to train them on, built here in seconds."""
