"""Writing a teacher's signals to disk, and checking a cache against the run that is to read it.

``teachers.signal_cache`` says what such a folder holds, and reads it.
"""
