"""Where a teacher comes from, of whatever kind it is; nothing heavy is imported here."""

from typing import TypeAlias

from teachers.server.source import ServerSource
from teachers.signal_cache.source import CacheSource
from teachers.source import ModelSource

TeacherSource: TypeAlias = ModelSource | ServerSource | CacheSource
"""Weights, a server, or a folder of signals."""
