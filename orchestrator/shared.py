"""What stands for a teacher that lives inside the student's ranks, where actors are expected."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.remembered import Remote

IN_THE_RANK = None
"""The reference of signals that a rank makes itself."""


@dataclass(frozen=True)
class TeacherInside:
    """Answers like a teacher's actor; whatever it is asked, the ranks do."""

    signals: Remote
    evaluate: Remote
    head_weights: Remote
    worked: Remote

    @classmethod
    def of(cls, students: Mapping[str, Any]) -> "TeacherInside":
        """The teacher inside these ranks; the first one's answer counts."""

        def evaluate(documents: Any) -> Any:
            asked = [rank.evaluate_shared.remote(documents) for rank in students.values()]
            return asked[0]

        return cls(
            signals=Remote(lambda _: IN_THE_RANK),
            evaluate=Remote(evaluate),
            head_weights=Remote(lambda: next(iter(students.values())).shared_head.remote()),
            worked=Remote(lambda: IN_THE_RANK),
        )
