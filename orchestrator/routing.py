"""Which teachers a document goes to, by a key of its row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from losses.document import Document
from orchestrator.config.messages import as_written, unknown
from orchestrator.config.run import RunConfig
from orchestrator.errors import ConfigError


@dataclass(frozen=True)
class Routing:
    """The rule of ``mixture.routing``.

    Args:
        key: the row's key that decides.
        teachers: names of all teachers.
        table: teachers by the key's value; None if the value itself names them.
    """

    key: str
    teachers: tuple[str, ...]
    table: Mapping[str, tuple[str, ...]] | None = None

    @classmethod
    def of(cls, config: RunConfig) -> "Routing | None":
        """The run file's rule; None if every document goes to every teacher."""
        routing = config.mixture.routing
        if routing is None or not config.teachers:
            return None
        return cls(routing.key, tuple(teacher.name for teacher in config.teachers), routing.table)

    def teachers_of(self, row: Mapping[str, Any], name: str) -> tuple[str, ...]:
        """Names of the teachers that a row goes to.

        Raises:
            ConfigError: the key is missing or its value is unknown; ``name`` says which row it is.
        """
        if row.get(self.key) is None:
            raise ConfigError(
                f'{name}: the key "{self.key}" of mixture.routing is missing; expected it in every '
                "row of data.train"
            )
        if self.table is not None:
            return self._by_table(self.table, row[self.key], name)
        return self._by_name(row[self.key], name)

    def _by_table(
        self, table: Mapping[str, tuple[str, ...]], value: object, name: str
    ) -> tuple[str, ...]:
        if not isinstance(value, str) or value not in table:
            raise ConfigError(
                f'{name}: "{self.key}" is {as_written(value)}, which is not in '
                f"mixture.routing.table: {unknown('value', value, table)}"
            )
        return table[value]

    def _by_name(self, value: object, name: str) -> tuple[str, ...]:
        names = [value] if isinstance(value, str) else value
        if not isinstance(names, list) or not names:
            raise ConfigError(
                f'{name}: "{self.key}" is {as_written(value)}; expected a teacher, or a '
                "list of teachers"
            )
        for entry in names:
            if entry not in self.teachers:
                raise ConfigError(
                    f'{name}: "{self.key}" names {as_written(entry)}: '
                    f"{unknown('teacher', entry, self.teachers)}"
                )
        return tuple(names)


def check_routed(documents: Sequence[Document], teachers: Sequence[str]) -> None:
    """Every teacher must get a document.

    Raises:
        ConfigError: one gets none.
    """
    for name in teachers:
        if not any(document.goes_to(name) for document in documents):
            raise ConfigError(
                f'mixture.routing: no document of data.train goes to teacher "{name}"; leave it '
                "out, or check the values of the key"
            )
