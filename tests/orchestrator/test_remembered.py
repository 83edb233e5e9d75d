"""What is remembered of a teacher is, bit for bit, what it says when asked; nothing is opened."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from losses.document import Document, text_document
from losses.methods.alm import Alm
from losses.methods.gold import Gold
from losses.methods.kl import Kl
from orchestrator.config import load_run
from orchestrator.remembered import GROUP, ask, groups_of, methods_of_parts
from teachers.actor import TeacherActor
from teachers.backends.transformers import LanguageModel
from teachers.teacher import Teacher

PARTS = [(Kl(),), (Alm(temperature=2.0), Kl()), (Gold(), Alm(temperature=2.0))]


class Inside(TeacherActor):
    """An actor that is given its teacher."""

    def __init__(self, teacher: Teacher) -> None:
        self.teacher = teacher


class Actor:
    """Ray's calling convention on an actor in this process; a reference is the value itself."""

    def __init__(self, teacher: Teacher) -> None:
        self.calls: list[int] = []
        inside = Inside(teacher)

        def options(num_returns: int) -> Any:
            def remote(documents: Any, places: Any) -> list[Any]:
                found = list(inside.signals_of_parts(documents, places))
                assert len(found) == num_returns
                self.calls.append(len(documents))
                return found

            return SimpleNamespace(remote=remote)

        self.signals_of_parts = SimpleNamespace(options=options)
        self.head_weights = SimpleNamespace(remote=inside.head_weights)


@pytest.fixture
def teacher(language_model: Callable[..., LanguageModel]) -> Teacher:
    return Teacher(language_model("llama", "bytelevel", seed=1), methods_of_parts(PARTS))


def same(ours: Any, expected: Any) -> None:
    assert type(ours) is type(expected)
    for name, value in vars(expected).items():
        np.testing.assert_array_equal(getattr(ours, name), value, strict=True)


def test_methods_once():
    assert methods_of_parts(PARTS) == [Kl(), Alm(temperature=2.0), Gold()]


def test_equals_the_live_teacher(teacher: Teacher, mixed_documents: list[Document]):
    actor = Actor(teacher)
    memory = ask({"same": actor}, {"same": PARTS}, groups_of(mixed_documents))
    assert actor.calls == [len(mixed_documents)]  # one forward serves every part
    assert memory.answered == [{"same": len(mixed_documents)}]
    shuffled = [mixed_documents[i] for i in (3, 0, 5)]
    live = dict(
        zip((d.name for d in mixed_documents), teacher.signals(mixed_documents), strict=True)
    )
    for part, places in zip(PARTS, ([0], [1, 0], [2, 1]), strict=True):
        config = arm(part)
        answers = memory.teachers(config)["same"].signals.remote(shuffled)
        for document, found in zip(shuffled, answers, strict=True):
            assert len(found) == len(places)
            for signal, place in zip(found, places, strict=True):
                same(signal, live[document.name][place])
    head = memory.teachers(arm(PARTS[0]))["same"].head_weights.remote()
    np.testing.assert_array_equal(head.weight, teacher.head_weights().weight)


def arm(part: Any) -> Any:
    """A run file whose one teacher has these methods."""
    config = load_run("smoke.yaml")
    entries = [SimpleNamespace(method=method) for method in part]
    return config.model_copy(update={"teachers": (SimpleNamespace(name="same", methods=entries),)})


def test_what_was_not_asked_is_refused(teacher: Teacher, mixed_documents: list[Document]):
    memory = ask({"same": Actor(teacher)}, {"same": PARTS}, groups_of(mixed_documents))
    with pytest.raises(KeyError, match="same was not asked for"):
        memory.teachers(arm((Alm(),)))


def test_groups_depend_on_nothing_but_the_documents():
    documents = [text_document(str(number), "x") for number in range(2 * GROUP + 1)]
    groups = groups_of(documents)
    assert [len(group) for group in groups] == [GROUP, GROUP, 1]
    assert [document for group in groups for document in group] == documents
