"""Kinds of teachers that cannot serve a method are refused with what could be done."""

import pytest

from losses.methods import method_names
from orchestrator.config import parse_run
from orchestrator.config.teacher_kind import BUILT, served_methods
from orchestrator.errors import ConfigError

LATER = 'teachers[0] (t).kind: "openai" is not in this release; expected "hf" or "self"'
SERVED = "alm (not with its default options), gold, h_kl, mined, p_kl, uld"


def run(kind: object, *methods: object) -> dict:
    return {
        "student": {"init": "org/model"},
        "teachers": [{"name": "t", "kind": kind, "model": "a", "methods": list(methods)}],
        "data": {"train": ["train.jsonl"], "held_out": ["held_out.jsonl"]},
        "output_dir": "runs/x",
    }


def problems(data: dict) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_run(data)
    return [line.strip() for line in str(caught.value).splitlines()[1:]]


def refusal(method: str, needs: str) -> str:
    return (
        f'teachers[0] (t).methods[0]: {method} {needs}, but a teacher of kind "openai" tells '
        f'likelihoods of the text and top-k alone; expected one of: {SERVED}, or kind "hf"'
    )


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ({"name": "hidden"}, refusal("hidden", "needs hidden states")),
        ({"name": "kl"}, refusal("kl", "needs full distributions and hidden states")),
        ({"name": "bld"}, refusal("bld", "needs full distributions and other continuations")),
        (
            {"name": "bld", "converter": "one_path"},
            refusal("bld", "needs full distributions"),
        ),
        ({"name": "alm"}, refusal("with these options alm", "needs full distributions")),
        (
            {"name": "p_kl", "temperature": 2.0},
            refusal("with these options p_kl", "needs full distributions"),
        ),
    ],
)
def test_what_a_server_does_not_tell(method, expected):
    assert sorted(problems(run("openai", method))) == sorted([LATER, expected])


@pytest.mark.parametrize(
    "method",
    [
        {"name": "p_kl"},
        {"name": "uld"},
        {"name": "alm", "debias": False, "merge_threshold": None},
    ],
)
def test_what_a_server_tells_is_not_in_this_release(method):
    assert problems(run("openai", method)) == [LATER]


def test_a_cache_serves_every_method_but_is_not_in_this_release():
    assert problems(run("cache", {"name": "hidden"})) == [LATER.replace("openai", "cache")]


@pytest.mark.parametrize("method", method_names())
@pytest.mark.parametrize("kind", BUILT)
def test_kinds_that_are_built_serve_every_method(kind, method):
    data = run(kind, {"name": method})
    if kind == "self":
        del data["teachers"][0]["model"]
    [teacher] = parse_run(data).teachers
    assert (teacher.kind, [entry.name for entry in teacher.methods]) == (kind, [method])


def test_the_students_own_init_has_no_model_key():
    [line] = problems(run("self", {"name": "hidden"}))
    assert line == (
        "teachers[0] (t).model: a teacher of kind self is the student's own init; leave it out"
    )


def test_each_method_that_is_not_served_is_named():
    found = problems(run("openai", {"name": "p_kl"}, {"name": "hidden"}, {"name": "dskd"}))
    assert [line.split(": ")[0] for line in found] == [
        "teachers[0] (t).kind",
        "teachers[0] (t).methods[1]",
        "teachers[0] (t).methods[2]",
    ]


@pytest.mark.parametrize("kind", [3, None, ["openai"], "opnai"])
def test_no_kind_at_all(kind):
    [line] = problems(run(kind, {"name": "hidden"}))
    assert line.startswith("teachers[0] (t).kind: ")
    assert line.endswith('is not allowed; expected "hf" or "self"')


def test_a_method_that_is_wrong_otherwise_says_so():
    found = problems(run("openai", {"name": "hiden"}))
    assert 'teachers[0] (t).methods[0].name: unknown method, did you mean "hidden"?' in found
    assert LATER in found


def test_served_methods():
    assert ", ".join(served_methods("openai")) == SERVED
