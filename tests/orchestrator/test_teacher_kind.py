"""Kinds of teachers that cannot serve a method are refused with what could be done."""

import pytest

from losses.methods import method_names
from orchestrator.config import parse_run
from orchestrator.config.teacher_kind import BUILT, served_methods
from orchestrator.errors import ConfigError

SERVED = "alm (not with its default options), gold, h_kl, mined, p_kl, uld"


SERVER = {"url": "http://localhost:8000", "top_logprobs": 4000}
BARE = {"name": "alm", "debias": False, "merge_threshold": None}
NEEDED: dict[str, dict] = {
    "hf": {"model": "a"},
    "self": {},
    "openai": {"model": "a", "server": SERVER, "tokenizer": "org/model"},
    "cache": {"path": "signals"},
}


def run(kind: object, *methods: object, **keys: object) -> dict:
    needed = NEEDED.get(kind, {}) if isinstance(kind, str) else {}
    teacher = {"name": "t", "kind": kind, **needed, "methods": list(methods), **keys}
    return {
        "student": {"init": "org/model"},
        "teachers": [teacher],
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
    assert problems(run("openai", method)) == [expected]


@pytest.mark.parametrize("name", ["gold", "h_kl", "mined", "p_kl", "uld"])
def test_what_a_server_tells(name):
    [teacher] = parse_run(run("openai", {"name": name}, BARE)).teachers
    assert teacher.device == "cpu"  # nothing runs here, so no GPU is set aside


@pytest.mark.parametrize("method", method_names())
@pytest.mark.parametrize("kind", [kind for kind in BUILT if kind != "openai"])
def test_other_kinds_serve_every_method(kind, method):
    [teacher] = parse_run(run(kind, {"name": method})).teachers
    assert (teacher.kind, [entry.name for entry in teacher.methods]) == (kind, [method])


def test_the_students_own_init_has_no_model_key():
    [line] = problems(run("self", {"name": "hidden"}, model="a"))
    assert line == (
        "teachers[0] (t).model: a teacher of kind self is the student's own init; leave it out"
    )


def test_each_method_that_is_not_served_is_named():
    found = problems(run("openai", {"name": "p_kl"}, {"name": "hidden"}, {"name": "dskd"}))
    assert [line.split(": ")[0] for line in found] == [
        "teachers[0] (t).methods[1]",
        "teachers[0] (t).methods[2]",
    ]


@pytest.mark.parametrize("kind", [3, None, ["openai"], "opnai"])
def test_no_kind_at_all(kind):
    [line] = problems(run(kind, {"name": "hidden"}))
    assert line.startswith("teachers[0] (t).kind: ")
    assert line.endswith('is not allowed; expected "hf" or "self" or "openai" or "cache"')


def test_a_method_that_is_wrong_otherwise_says_so():
    found = problems(run("openai", {"name": "hiden"}))
    assert found == ['teachers[0] (t).methods[0].name: unknown method, did you mean "hidden"?']


class TestServer:
    @pytest.mark.parametrize("key", ["model", "server", "tokenizer"])
    def test_it_needs(self, key):
        [line] = problems(run("openai", BARE, **{key: None}))
        assert line.startswith(f"teachers[0] (t).{key}: missing; expected ")

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("packing", True),
            ("model_options", {"attn_implementation": "sdpa"}),
            ("share_weights", True),
            ("path", "signals"),
        ],
    )
    def test_it_does_not_take(self, key, value):
        [line] = problems(run("openai", BARE, **{key: value}))
        assert line.startswith(f"teachers[0] (t).{key}: only a teacher of kind ")

    @pytest.mark.parametrize("key", ["server", "tokenizer"])
    @pytest.mark.parametrize("kind", ["hf", "self"])
    def test_it_alone_takes(self, kind, key):
        [line] = problems(run(kind, BARE, **{key: NEEDED["openai"][key]}))
        assert line == (
            f"teachers[0] (t).{key}: only a teacher of kind openai takes it; leave it out"
        )

    @pytest.mark.parametrize(
        ("server", "words"),
        [
            ({"url": "localhost:8000"}, '.url: "localhost:8000" is not allowed; expected http://'),
            ({"url": "http://a:b@c"}, ".url: it holds a user, a password or a query; expected"),
            ({"url": "a:b@c"}, ".url: it holds a user, a password or a query; expected http://"),
            ({"url": "http://c?k=b"}, ".url: it holds a user, a password or a query; expected"),
            ({"url": "http://c:70000"}, '.url: "http://c:70000" is not allowed; expected http://'),
            ({"url": "http://c:8000/v1/"}, '.url: "http://c:8000/v1/" ends with /v1, which is'),
            ({"dialect": "tgi"}, '.dialect: "tgi" is not allowed; expected "vllm" or "sglang" or'),
            ({"timeout_s": 0.0}, ".timeout_s: 0.0 is not allowed; expected a number, above 0"),
            ({"retries": -1}, ".retries: -1 is not allowed; expected a whole number"),
            ({"concurrency": 0}, ".concurrency: 0 is not allowed; expected a whole number"),
            ({"api_key": "x"}, '.api_key: unknown key, did you mean "api_key_variable"?'),
        ],
    )
    def test_what_is_wrong_with_it(self, server, words):
        [line] = problems(run("openai", BARE, server=SERVER | server))
        assert f"teachers[0] (t).server{words}" in line

    def test_a_key_in_the_place_of_its_variable_is_not_shown(self):
        server = SERVER | {"api_key_variable": "sk-secret"}
        [line] = problems(run("openai", BARE, server=server))
        assert "expected the name of an environment variable" in line
        assert "secret" not in line

    @pytest.mark.parametrize(
        ("k", "listed", "lower"), [(20, 20, "k: 19, or "), (5, 4, "k: 3, or "), (1, 0, "")]
    )
    def test_more_likely_tokens_than_it_lists(self, k, listed, lower):
        server = SERVER | {"top_logprobs": listed}
        [line] = problems(run("openai", {"name": "p_kl", "k": k}, server=server))
        assert line == (
            f"teachers[0] (t).methods[0]: p_kl reads the {k} likeliest tokens beside the text's "
            f"own, which may be one of the {listed} that the server lists; expected {lower}"
            f"server.top_logprobs: {k + 1} (vLLM then needs --max-logprobs {k + 1})"
        )

    def test_as_many_as_it_lists(self):
        server = SERVER | {"top_logprobs": 21}
        assert parse_run(run("openai", {"name": "p_kl", "k": 20}, BARE, server=server))

    def test_its_entropy_is_not_known(self):
        data = run("openai", BARE) | {"mixture": {"weights": "teacher_entropy"}}
        data["teachers"] += run("hf", BARE, name="other")["teachers"]
        [line] = problems(data)
        assert line.startswith("teachers[0] (t).kind: mixture.weights reads each teacher's entropy")
        assert parse_run(data | {"mixture": {"weights": "teacher_ce"}})


def test_served_methods():
    assert ", ".join(served_methods("openai")) == SERVED
