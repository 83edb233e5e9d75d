"""The mixture in the run file: what is accepted and refused, and which rows go where."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from losses.base import Method
from losses.document import text_document
from losses.methods import method_class, method_names
from losses.mixture import SCHEMES, Confidence, Constant, Dynamic, GradMag, Schedule, Select
from orchestrator.arm import Arm
from orchestrator.checkpoint import describe_documents
from orchestrator.cluster import Machine
from orchestrator.config import RunConfig, load_run, parse_run, to_yaml
from orchestrator.config.json_schema import json_schema
from orchestrator.config.yaml_text import parse_yaml
from orchestrator.continuation import changed_keys
from orchestrator.cutting import cut_to_length
from orchestrator.data import load_documents
from orchestrator.errors import ConfigError
from orchestrator.gates.arm import check_arm
from orchestrator.routing import Routing, check_routed
from orchestrator.run import ce_only_config
from orchestrator.setup import read_split, set_up
from orchestrator.specs import student_spec, teacher_specs
from orchestrator.student.objective import Objective

LEARNED = {"b": [{"name": "h_kl"}, {"name": "p_kl", "learnable_w": True}]}
"""The second teacher trains W."""


def run(
    mixture: dict[str, Any],
    num_teachers: int = 2,
    stage: int = 0,
    methods: dict[str, list[dict[str, Any]]] | None = None,
    **weights: Any,
) -> RunConfig:
    fed, kl = methods or {}, [{"name": "kl"}]
    teachers = [
        {"name": n, "model": n, "weight": weights.get(n, 1.0), "methods": fed.get(n, kl)}
        for n in ("a", "b", "c")[:num_teachers]
    ]
    return parse_run(
        {
            "student": {"init": "x"},
            "teachers": teachers,
            "mixture": mixture,
            "deepspeed": {"zero_optimization": {"stage": stage}},
            "data": {"train": ["t.jsonl"], "held_out": ["h.jsonl"]},
            "train": {"gradient_share_steps": 0},
            "output_dir": "x",
        },
        "run.yaml",
    )


class TestAccepted:
    def test_default(self):
        assert run({}).mixture.weights == Constant()
        assert run({}).mixture.routing is None

    @pytest.mark.parametrize("name", SCHEMES)
    def test_a_name_alone_has_the_defaults(self, name):
        assert run({"weights": name}).mixture.weights == SCHEMES[name]()
        assert run({"weights": {"name": name}}).mixture.weights == SCHEMES[name]()

    def test_options(self):
        found = run({"weights": {"name": "confidence", "temperature": 2}}).mixture.weights
        assert found == Confidence(temperature=2.0)

    def test_schedule(self):
        found = run({}, a={"start": 0, "end": 1.5, "steps": 10}).teachers[0].weight
        assert found == Schedule(start=0.0, end=1.5, steps=10)

    @pytest.mark.parametrize(
        "mixture",
        [
            {"weights": {"name": "select", "metric": "entropy"}},
            {"weights": "gradmag", "routing": {"table": {"x": "a", "y": ["a", "b"], "z": []}}},
            {"routing": {"key": "data_source"}},
        ],
    )
    def test_resolved_file_loads_to_the_same(self, mixture):
        config = run(mixture, a={"start": 0, "end": 1, "steps": 3, "shape": "cosine"})
        assert parse_run(parse_yaml(to_yaml(config), "resolved")) == config

    @pytest.mark.parametrize(
        ("mixture", "stage", "methods"),
        [
            ({"routing": {}}, 2, LEARNED),
            ({"weights": "select"}, 2, LEARNED),
            ({"weights": "confidence"}, 3, LEARNED),
            ({"routing": {}}, 3, {"b": [{"name": "p_kl"}]}),
        ],
    )
    def test_trained_parameters_where_every_document_reaches_them(self, mixture, stage, methods):
        assert run(mixture, stage=stage, methods=methods).teachers[1].methods

    def test_constant_is_written_as_a_name(self):
        assert "weights: constant\n" in to_yaml(run({}))

    def test_a_single_name_in_the_table_is_a_list(self):
        config = run({"routing": {"table": {"x": "a", "y": ["b"]}}})
        assert config.mixture.routing.table == {"x": ("a",), "y": ("b",)}

    def test_a_resumed_run_may_not_change_it(self):
        found = changed_keys(run({}), run({"weights": {"name": "gradmag", "decay": 0.5}}))
        assert set(found) == {"mixture.weights", "mixture.weights.name", "mixture.weights.decay"}

    def test_editors_know_schemes_and_schedules(self):
        definitions = json_schema()["$defs"]
        weights = definitions["MixtureConfig"]["properties"]["weights"]["anyOf"]
        assert weights[0] == {"enum": list(SCHEMES)}
        by_name = {form["properties"]["name"]["const"]: form for form in weights[1:]}
        assert set(by_name["dynamic"]["properties"]) == {"name", "decay", "max_scale"}
        assert "Schedule" in json.dumps(definitions["TeacherConfig"]["properties"]["weight"])


REFUSED = {
    "trained parameters and routing under ZeRO-3": (
        {"routing": {}},
        {"stage": 3, "methods": LEARNED},
        "teachers[1] (b).methods[1]: p_kl trains parameters of its own, which under ZeRO-3 "
        "every document must reach, but mixture.routing keeps some from a teacher; expected "
        "deepspeed.zero_optimization.stage up to 2, or no mixture.routing",
    ),
    "trained parameters and select under ZeRO-3": (
        {"weights": "select"},
        {"stage": 3, "methods": LEARNED},
        "teachers[1] (b).methods[1]: p_kl trains parameters of its own, which under ZeRO-3 "
        "every document must reach, but mixture.weights: select keeps some from a teacher",
    ),
    "unknown scheme": (
        {"weights": "gradmac"},
        {},
        'mixture.weights: "gradmac": unknown scheme, did you mean "gradmag"?',
    ),
    "no name": (
        {"weights": {"decay": 0.5}},
        {},
        "mixture.weights.name: missing; expected one of: constant,",
    ),
    "not a name": ({"weights": 3}, {}, "mixture.weights: 3 is not allowed; expected constant,"),
    "name that is no text": (
        {"weights": {"name": 3}},
        {},
        "mixture.weights: 3 is not allowed; expected constant,",
    ),
    "unknown option": (
        {"weights": {"name": "gradmag", "deca": 0.5}},
        {},
        'mixture.weights.deca: unknown key, did you mean "decay"?',
    ),
    "wrong option": (
        {"weights": {"name": "gradmag", "decay": 1.0}},
        {},
        "mixture.weights.decay: 1.0 is not allowed; expected a number, at least 0, below 1",
    ),
    "number in quotes": (
        {"weights": {"name": "confidence", "temperature": "1"}},
        {},
        'mixture.weights.temperature: "1" is not allowed',
    ),
    **{
        f"{name} with one teacher": (
            {"weights": name},
            {"num_teachers": 1},
            f'mixture.weights: "{name}" needs two teachers or more, found 1; expected "constant"',
        )
        for name in ("confidence", "teacher_ce", "teacher_entropy", "select")
    },
    **{
        f"{name} without teachers": (
            {"weights": name},
            {"num_teachers": 0},
            f'mixture.weights: "{name}" needs a teacher, found 0; expected "constant"',
        )
        for name in ("gradmag", "dynamic")
    },
    "dynamic without cross-entropy": (
        {"weights": "dynamic", "ce_weight": 0},
        {},
        'mixture.weights: "dynamic" scales the teachers\' losses to cross-entropy, whose weight',
    ),
    "gradmag under ZeRO-3": (
        {"weights": "gradmag"},
        {"stage": 3},
        'mixture.weights: "gradmag" takes a gradient for each term, which ZeRO-3 does not allow',
    ),
    "routing without teachers": (
        {"routing": {}},
        {"num_teachers": 0},
        "mixture.routing: there is no teacher to send documents to; expected null",
    ),
    "unknown key of routing": (
        {"routing": {"kay": "x"}},
        {},
        'mixture.routing.kay: unknown key, did you mean "key"?',
    ),
    "empty key": ({"routing": {"key": ""}}, {}, 'mixture.routing.key: "" is not allowed'),
    "unknown teacher in the table": (
        {"routing": {"table": {"x": ["a", "b", "d"]}}},
        {},
        "mixture.routing.table.x[2]: unknown teacher; expected one of: a, b",
    ),
    "teacher twice in an entry": (
        {"routing": {"table": {"x": ["a", "b", "a"]}}},
        {},
        'mixture.routing.table.x: "a" appears more than once; expected each name once',
    ),
    "teacher without documents": (
        {"routing": {"table": {"x": "a"}}},
        {},
        'mixture.routing.table: "b" gets no document; expected it in a list',
    ),
    "nothing to teach": (
        {"ce_weight": 0, "routing": {"table": {"x": ["a", "b"], "y": []}}},
        {},
        "mixture.routing.table.y: [] with mixture.ce_weight 0 leaves such documents nothing",
    ),
    "one teacher a document": (
        {"weights": "select", "routing": {"table": {"x": "a", "y": "b"}}},
        {},
        'mixture.weights: "select" has no effect: no document goes to two teachers; expected',
    ),
    "weight 0": (
        {},
        {"a": 0},
        "teachers[0] (a).weight: 0 is not allowed; expected a number, above 0, or a mapping",
    ),
    "unknown key of a schedule": (
        {},
        {"a": {"start": 0, "end": 1, "steps": 2, "shap": "cosine"}},
        'teachers[0] (a).weight.shap: unknown key, did you mean "shape"?',
    ),
    "schedule without an end": (
        {},
        {"a": {"start": 0, "steps": 2}},
        "teachers[0] (a).weight.end: missing; expected a number, at least 0",
    ),
    "schedule below 0": (
        {},
        {"a": {"start": -1, "end": 1, "steps": 2}},
        "teachers[0] (a).weight.start: -1 is not allowed; expected a number, at least 0",
    ),
    "schedule of nothing": (
        {},
        {"a": {"start": 1, "end": 1, "steps": 2}},
        "teachers[0] (a).weight: start and end are both 1, so nothing is scheduled",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    mixture, others, message = REFUSED[case]
    with pytest.raises(ConfigError) as caught:
        run(mixture, **others)
    _, *lines = str(caught.value).splitlines()
    assert [line for line in lines if line.strip().startswith(message)], lines
    assert len(lines) == 1


@pytest.mark.parametrize(
    "entry",
    [
        {"name": "bld", "head": "parallel"},
        {"name": "dskd"},
        {"name": "hidden"},
        {"name": "p_kl", "learnable_w": True},
        {"name": "sedi"},
    ],
    ids=lambda entry: entry["name"],
)
def test_trained_parameters_are_known_from_the_options(entry):
    with pytest.raises(ConfigError, match=rf"methods\[0\]: {entry['name']} trains parameters"):
        run({"routing": {}}, stage=3, methods={"b": [entry]})


def test_a_method_with_modules_says_so():
    for name in method_names():
        kind = method_class(name)
        owns = kind.modules is not Method.modules
        assert owns == (kind.trains_modules is not Method.trains_modules), name


class TestSpecs:
    @staticmethod
    def of(*overrides: str) -> Any:
        config = load_run("smoke.yaml", ["data.train_limit=4", "data.held_out_limit=2", *overrides])
        setup = set_up(config)
        vocabularies = {t.name: t.vocabulary for t in setup.tokenizers}
        machine = Machine(num_cpus=2, num_gpus=0.0)
        return student_spec(config, machine, vocabularies), teacher_specs(config, machine)

    def test_schedules_and_scheme_reach_the_ranks_and_questions_the_teachers(self):
        weight = "teachers.bytelevel.weight={start: 0, end: 2, steps: 4}"
        student, teachers = self.of("mixture.weights=select", weight)
        objective = student.objective
        assert objective.scheme == Select()
        assert objective.weights[1] == Schedule(start=0.0, end=2.0, steps=4)
        assert [teacher.asks for teacher in teachers] == ["ce", "ce"]

    def test_a_methods_weight_multiplies_the_schedule(self):
        weight = "teachers.bytelevel.weight={start: 0, end: 2, steps: 4}"
        student, _ = self.of(weight, "teachers.bytelevel.methods.kl.weight=3")
        assert student.objective.weights[1] == Schedule(start=0.0, end=6.0, steps=4)

    def test_default_asks_nothing(self):
        student, teachers = self.of()
        assert student.objective.scheme == Constant()
        assert not student.objective.has_state
        assert [teacher.asks for teacher in teachers] == [None, None]

    def test_the_arm_without_teachers_is_constant(self):
        from orchestrator.cluster import Machine

        config = ce_only_config(load_run("smoke.yaml", ["mixture.weights=gradmag"]))
        spec = student_spec(config, Machine(num_cpus=2, num_gpus=0.0), {})
        assert spec.objective == Objective((1.0,), "bytes")


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        (Objective((1.0, 1.0), "bytes"), False),
        (Objective((1.0, 1.0), "bytes", Confidence()), False),
        (Objective((1.0, 1.0), "bytes", Dynamic()), True),
        (Objective((1.0, 1.0), "bytes", GradMag()), True),
        (Objective((1.0, Schedule(start=0.0, end=1.0, steps=2)), "bytes"), True),
    ],
)
def test_only_what_depends_on_the_past_is_saved(objective, expected):
    assert objective.has_state == expected


TABLE = Routing("data_source", ("a", "b"), {"maths": ("a",), "code": ("a", "b"), "chat": ()})
NAMES = Routing("teacher_id", ("a", "b"))


class TestRows:
    @pytest.mark.parametrize(
        ("routing", "value", "expected"),
        [
            (TABLE, "maths", ("a",)),
            (TABLE, "code", ("a", "b")),
            (TABLE, "chat", ()),
            (NAMES, "b", ("b",)),
            (NAMES, ["b", "a"], ("b", "a")),
        ],
    )
    @pytest.mark.parametrize(
        "row",
        [
            {"text": "Hi"},
            {"prompt": "2+2=", "completion": "4"},
            {"messages": [{"role": "assistant", "content": "Hi"}]},
        ],
    )
    def test_rows_go_where_the_key_says(self, tmp_path, routing, value, expected, row):
        path = tmp_path / "t.jsonl"
        path.write_text(json.dumps(row | {routing.key: value}) + "\n")
        [document] = load_documents([str(path)], routing=routing)
        assert document.teachers == expected
        assert [document.goes_to(name) for name in "ab"] == [name in expected for name in "ab"]

    @pytest.mark.parametrize(
        ("routing", "row", "message"),
        [
            (NAMES, {}, 'the key "teacher_id" of mixture.routing is missing; expected it in every'),
            (NAMES, {"teacher_id": None}, 'the key "teacher_id" of mixture.routing is missing'),
            (NAMES, {"teacher_id": "d"}, '"teacher_id" names "d": unknown teacher; expected one'),
            (NAMES, {"teacher_id": ["a", 3]}, '"teacher_id" names 3: unknown teacher'),
            (NAMES, {"teacher_id": []}, '"teacher_id" is []; expected a teacher, or a list'),
            (NAMES, {"teacher_id": 3}, '"teacher_id" is 3; expected a teacher, or a list'),
            (TABLE, {"data_source": "cod"}, "which is not in mixture.routing.table: unknown value"),
            (TABLE, {"data_source": ["code"]}, "which is not in mixture.routing.table"),
        ],
    )
    def test_refused_rows_are_named(self, tmp_path, routing, row, message):
        path = tmp_path / "t.jsonl"
        good = {"text": "x", "teacher_id": "a", "data_source": "code"}
        path.write_text("".join(json.dumps(r) + "\n" for r in (good, {"text": "Hi"} | row)))
        with pytest.raises(ConfigError) as caught:
            load_documents([str(path)], routing=routing)
        assert str(caught.value).startswith(f"{path}:2: ")
        assert message in str(caught.value)

    def test_without_routing_the_key_is_not_read(self, tmp_path):
        path = tmp_path / "t.jsonl"
        path.write_text('{"text": "Hi", "teacher_id": "nobody"}\n')
        assert load_documents([str(path)])[0].teachers is None

    def test_a_teacher_without_a_document(self):
        documents = [replace(text_document("d", "x"), teachers=("a",))]
        check_routed(documents, ["a"])
        with pytest.raises(ConfigError, match='goes to teacher "b"'):
            check_routed(documents, ["a", "b"])

    def test_only_training_text_is_routed(self, tmp_path):
        for name in ("t", "h"):
            (tmp_path / f"{name}.jsonl").write_text('{"text": "Hi", "teacher_id": "a"}\n')
        config = load_run(
            "smoke.yaml",
            [
                "mixture.routing={table: {a: [bytelevel, sentencepiece]}}",
                f"data.train=[{tmp_path}/t.jsonl]",
                f"data.held_out=[{tmp_path}/h.jsonl]",
            ],
        )
        assert read_split(config, "train")[0].teachers == ("bytelevel", "sentencepiece")
        assert read_split(config, "held_out")[0].teachers is None

    def test_cut_documents_stay_routed(self, tokenizers):
        segments = replace(text_document("d", "one two three four " * 9), teachers=("a",))
        [(cut, _)] = cut_to_length([segments], tokenizers["bytelevel"], 10)
        assert cut is not segments
        assert cut.teachers == ("a",)

    def test_another_routing_is_other_data_for_a_resumed_run(self):
        plain = text_document("d", "x")
        routed = [replace(plain, teachers=names) for names in (("a",), ("b",), ())]
        assert len({describe_documents([d]) for d in (plain, *routed)}) == 4

    def test_before_the_first_step_every_teacher_reads_every_document(self):
        asked = []

        def remote(documents):
            asked.extend(documents)
            raise InterruptedError

        arm = Arm({}, {"a": SimpleNamespace(signals=SimpleNamespace(remote=remote))}, ("ce",))
        documents = [replace(text_document("d", "x" * n), teachers=("b",)) for n in (1, 2)]
        with pytest.raises(InterruptedError):
            check_arm(arm, documents, load_run("smoke.yaml"), Path())
        assert asked
        assert all(document.goes_to("a") for document in asked)
