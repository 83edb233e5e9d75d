"""The run file: what is accepted, and exactly what is said about everything else."""

import copy
import pickle
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar, Literal

import pytest
from pydantic import Field
from pydantic.dataclasses import dataclass

from losses import methods
from losses.base import OPTIONS, Method
from losses.needs import Need
from orchestrator.config import MethodConfig, RunConfig, load_run, parse_run, to_yaml
from orchestrator.config.reference import reference
from orchestrator.config.schema import element_of, fields_of
from orchestrator.config.shipped import find_run_file, shipped_run_files
from orchestrator.config.yaml_text import LARGEST_FILE, dump_yaml, parse_yaml
from orchestrator.errors import ConfigError
from orchestrator.specs import engine_options

ROOT = Path(__file__).resolve().parents[2]


class Silent(Method):
    """A method that is only configured, never run."""

    reads: ClassVar[frozenset[Need]] = frozenset({Need.TOP_K})

    def signal(self, teacher, document):
        raise NotImplementedError

    def loss(self, student, signal, pair, modules):
        raise NotImplementedError

    def num_units(self, tokens, scored, signal, pair):
        raise NotImplementedError


@dataclass(frozen=True, config=OPTIONS)
class Toy(Silent):
    """A method's options with every kind of bound."""

    temperature: float = Field(1.0, gt=0)
    divergence: Literal["kl", "tvd"] = "kl"
    ks: tuple[int, ...] = ()

    @property
    def needs_distributions(self) -> bool:
        return self.temperature != 1


@dataclass(frozen=True, config=OPTIONS)
class Plain(Silent):
    """A method without options."""


TOYS = {"toy": Toy, "plain": Plain}


@pytest.fixture(name="toys")
def toy_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two methods of known options in place of the real ones."""
    registry = SimpleNamespace(method_names=lambda: sorted(TOYS), method_class=TOYS.__getitem__)
    monkeypatch.setattr("orchestrator.config.method.methods", registry)


def minimal() -> dict:
    return {
        "student": {"init": "org/model"},
        "teachers": [
            {"name": "first", "model": "a", "methods": [{"name": "toy"}]},
            {"name": "gemma", "model": "b", "methods": [{"name": "toy", "temperature": 5}]},
        ],
        "data": {"train": ["train.jsonl"], "held_out": ["asset:gsm8k/held_out.jsonl"]},
        "output_dir": "runs/x",
    }


def changed(path: str, value: object) -> dict:
    """The minimal run with one value put at a path such as ``teachers.0.name``."""
    data = minimal()
    *parents, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    place = data
    for step in parents:
        place = place.setdefault(step, {}) if isinstance(place, dict) else place[step]
    place[last] = value
    return data


def problems(data: object) -> list[str]:
    """The lines of the error, its head left out."""
    with pytest.raises(ConfigError) as caught:
        parse_run(data, "run.yaml")
    head, *lines = str(caught.value).splitlines()
    assert head == f"run.yaml: {len(lines)} problem{'s' if len(lines) > 1 else ''}"
    return [line.removeprefix("  ") for line in lines]


@pytest.mark.usefixtures("toys")
class TestAccepted:
    """What a good run file becomes."""

    def test_minimal(self):
        config = parse_run(minimal())
        assert config.teachers[1].methods[0].method == Toy(temperature=5.0)
        assert config.data.train == ("train.jsonl",)
        assert config.output_dir == Path("runs/x")
        assert config.train.learning_rate == 1e-3

    def test_resolved_file_loads_to_the_same(self, tmp_path: Path):
        config = parse_run(changed("teachers.0.methods", [{"name": "toy", "ks": [1, 2]}]))
        path = tmp_path / "run.yaml"
        path.write_text(to_yaml(config))
        assert load_run(path) == config

    @pytest.mark.parametrize(("num_ranks", "expected"), [(1, (4, 1)), (2, (2, 1)), (4, (1, 1))])
    def test_a_rank_never_takes_more_than_its_share(self, num_ranks: int, expected: tuple):
        data = changed("train", {"global_batch": 4, "micro_batch": 4})
        data["student"]["num_ranks"] = num_ranks
        engine = engine_options(parse_run(data))
        assert (engine.micro_batch, engine.accumulation) == expected

    def test_pickles(self):
        config = parse_run(minimal())
        assert pickle.loads(pickle.dumps(config)) == config

    def test_is_frozen(self):
        config = parse_run(minimal())
        with pytest.raises(ValueError, match="frozen"):
            config.train.seed = 1

    def test_input_is_not_changed(self):
        data = minimal()
        before = copy.deepcopy(data)
        parse_run(data)
        assert data == before

    def test_method_entry_from_python(self):
        entry = MethodConfig.model_validate({"name": "toy", "weight": 2, "divergence": "tvd"})
        assert (entry.weight, entry.method) == (2.0, Toy(divergence="tvd"))

    def test_deepspeed_from_a_file(self, tmp_path: Path):
        path = tmp_path / "ds.json"
        path.write_text('{"zero_optimization": {"stage": 1}}')
        config = parse_run(changed("deepspeed", str(path)))
        assert config.deepspeed == {"zero_optimization": {"stage": 1}}

    def test_no_teachers_is_plain_cross_entropy(self):
        assert parse_run(changed("teachers", [])).teachers == ()


@pytest.mark.usefixtures("toys")
@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        # Unknown keys
        ("trian", {}, 'trian: unknown key, did you mean "train"?'),
        ("train.max_step", 5, 'train.max_step: unknown key, did you mean "max_steps"?'),
        (
            "compare.baseline",
            5,
            "compare.baseline: unknown key; expected one of: ce_only",
        ),
        (
            "teachers.1.wieght",
            1.0,
            'teachers[1] (gemma).wieght: unknown key, did you mean "weight"?',
        ),
        (
            "teachers.1.methods.0.temperatur",
            1.0,
            'teachers[1] (gemma).methods[0].temperatur: unknown key, did you mean "temperature"?',
        ),
        (
            "teachers.0.methods",
            [{"name": "plain", "alpha": 1}],
            "teachers[0] (first).methods[0].alpha: unknown key; none is known here",
        ),
        # Types and bounds: nothing is converted
        (
            "train.max_steps",
            "ten",
            'train.max_steps: "ten" is not allowed; expected a whole number, at least 1',
        ),
        (
            "train.max_steps",
            True,
            "train.max_steps: true is not allowed; expected a whole number, at least 1",
        ),
        (
            "train.learning_rate",
            "1e-3",
            'train.learning_rate: "1e-3" is not allowed; expected a number, above 0',
        ),
        (
            "train.learning_rate",
            float("inf"),
            "train.learning_rate: Infinity is not allowed; expected a number, above 0",
        ),
        (
            "train.betas",
            [0.9],
            "train.betas[1]: missing; expected a number, at least 0, below 1",
        ),
        (
            "train.betas",
            [0.9, 1.0],
            "train.betas[1]: 1.0 is not allowed; expected a number, at least 0, below 1",
        ),
        (
            "student.dtype",
            "float16",
            'student.dtype: "float16" is not allowed; expected "float32" or "bfloat16"',
        ),
        (
            "student.threads",
            0,
            "student.threads: 0 is not allowed; expected a whole number, at least 1, or null",
        ),
        (
            "student.revision",
            1234567,
            "student.revision: 1234567 is not allowed; expected text or null, in quotes",
        ),
        (
            "student.init",
            "",
            'student.init: "" is not allowed; expected a folder, a hub id or asset:NAME',
        ),
        ("train", 5, None),
        (
            "data.train",
            [],
            "data.train: [] is not allowed; expected a list (each: a .jsonl file or asset:NAME), "
            "not empty",
        ),
        (
            "data.train",
            "a.jsonl",
            'data.train: "a.jsonl" is not allowed; expected a list (each: a .jsonl file or '
            "asset:NAME), not empty",
        ),
        (
            "data.train",
            ["a.txt"],
            'data.train[0]: "a.txt" is not a data file; expected a .jsonl file or asset:NAME',
        ),
        (
            "student.keep_layers",
            [0, -1],
            "student.keep_layers[1]: -1 is not allowed; expected a whole number, at least 0",
        ),
        (
            "student.keep_layers",
            [3, 1, 3],
            "student.keep_layers: [3, 1, 3] is not rising; expected each index once, in order: "
            "[1, 3]",
        ),
        # Teachers and methods
        (
            "teachers.0.name",
            "ce",
            'teachers[0] (ce).name: "ce" is not a name; expected letters, digits, _ and -, and '
            'not "ce" or "student"',
        ),
        (
            "teachers.0.name",
            "student",
            'teachers[0] (student).name: "student" is not a name; expected letters, digits, _ and '
            '-, and not "ce" or "student"',
        ),
        (
            "teachers.0.name",
            "gemma",
            'teachers: "gemma" appears more than once; expected each name once',
        ),
        (
            "teachers.0.kind",
            "hg",
            'teachers[0] (first).kind: "hg" is not allowed; expected "hf" or "self" or "openai" '
            'or "cache"',
        ),
        (
            "teachers.0.weight",
            0,
            "teachers[0] (first).weight: 0 is not allowed; expected a number, above 0, or a "
            "mapping (start, end, steps, shape)",
        ),
        (
            "teachers.0.trust_remote_code",
            True,
            "teachers[0] (first): trust_remote_code is true without a revision; expected the "
            "commit of the code that is trusted",
        ),
        (
            "teachers.0.methods.0.name",
            "tou",
            'teachers[0] (first).methods[0].name: unknown method, did you mean "toy"?',
        ),
        (
            "teachers.0.methods.0.name",
            "x",
            "teachers[0] (first).methods[0].name: unknown method; expected one of: plain, toy",
        ),
        (
            "teachers.0.methods.0.temperature",
            "5",
            'teachers[0] (first).methods[0].temperature: "5" is not allowed; expected a number, '
            "above 0",
        ),
        (
            "teachers.0.methods.0.divergence",
            "js",
            'teachers[0] (first).methods[0].divergence: "js" is not allowed; expected "kl" or '
            '"tvd"',
        ),
        (
            "teachers.0.methods",
            [{"name": "toy"}, {"name": "toy"}],
            'teachers[0] (first).methods: "toy" appears more than once; expected each method once',
        ),
        (
            "teachers.0.methods",
            [{"temperature": 5}],
            "teachers[0] (first).methods[0].name: missing; expected the name of a method",
        ),
        (
            "teachers.0.methods",
            ["toy"],
            'teachers[0] (first).methods[0]: "toy" is not allowed; expected a mapping (name, '
            "weight, options of the method)",
        ),
        # Keys that belong elsewhere
        (
            "student.model_options",
            {"torch_dtype": "auto"},
            'student.model_options: "torch_dtype" is not taken here (use the key dtype beside '
            "model_options)",
        ),
        (
            "teachers.0.model_options",
            {"token": "hf_secret"},
            'teachers[0] (first).model_options: "token" is not taken here (secrets stay out of '
            "run files: set HF_TOKEN in the environment)",
        ),
        (
            "deepspeed",
            {"gradient_clipping": 1.0},
            'deepspeed: "gradient_clipping" is not taken here (use train.max_grad_norm)',
        ),
        (
            "deepspeed",
            "nowhere.json",
            'deepspeed: cannot read "nowhere.json" (No such file or directory); expected a '
            "mapping or a JSON file",
        ),
        (
            "deepspeed",
            3,
            "deepspeed: 3 is not allowed; expected a mapping or the path of a JSON file",
        ),
        (
            "deepspeed",
            {"zero_optimisation": {"stage": 3}},
            'deepspeed.zero_optimisation: unknown key, did you mean "zero_optimization"?',
        ),
        (
            "deepspeed",
            {"zero_optimization": 2},
            "deepspeed.zero_optimization: 2 is not allowed; expected a mapping, such as {stage: 2}",
        ),
        (
            "deepspeed",
            {"zero_optimization": {"stge": 2}},
            'deepspeed.zero_optimization.stge: unknown key, did you mean "stage"?',
        ),
        (
            "deepspeed",
            {"activation_checkpointing": {"partitioned_activations": True}},
            "deepspeed.activation_checkpointing.partitioned_activations: unknown key, did you mean "
            '"partition_activations"?',
        ),
        (
            "deepspeed",
            {"zero_optimization": {"stage": 2, "offload_optimizer": {"devise": "cpu"}}},
            "deepspeed.zero_optimization.offload_optimizer.devise: unknown key, did you mean "
            '"device"?',
        ),
        (
            "deepspeed",
            {"timers": {"throughput": {"on": False}}},
            "deepspeed.timers.throughput.on: unknown key; expected one of: enabled, synchronized",
        ),
        (
            "deepspeed",
            {"flops_profiler": True},
            "deepspeed.flops_profiler: true is not allowed; expected a mapping",
        ),
        *(
            (
                "deepspeed",
                {"zero_optimization": {"stage": stage}},
                f"deepspeed.zero_optimization.stage: {shown} is not allowed; expected 0, 1, 2 or 3",
            )
            for stage, shown in ((7, "7"), ("2", '"2"'), (True, "true"), (None, "null"))
        ),
        # Combinations
        (
            "teachers.0.kind",
            "self",
            "teachers[0] (first).model: a teacher of kind self is the student's own init; leave it "
            "out",
        ),
        (
            "teachers.0.share_weights",
            True,
            "teachers[0] (first).share_weights: only a teacher of kind self takes it; leave it out",
        ),
        (
            "teachers.0.model",
            None,
            "teachers[0] (first).model: missing; expected a folder, a hub id or asset:NAME",
        ),
        (
            "student.embeddings",
            {"init": "mean"},
            "student: embeddings has no effect: the tokenizer is that of init; leave it out, or "
            "set tokenizer",
        ),
        (
            "student.embeddings",
            {"init": "hypernetwork"},
            "student.embeddings: init is hypernetwork and hypernetwork is null; expected the "
            "folder that tutelage hypernet train wrote with init: hypernetwork, and null with any "
            "other",
        ),
        (
            "student.embeddings",
            {"hypernetwork": "h"},
            'student.embeddings: init is fvt and hypernetwork is "h"; expected the folder that '
            "tutelage hypernet train wrote with init: hypernetwork, and null with any other",
        ),
        (
            "student.lora",
            {"target_modules": ["q_proj", "q_proj"]},
            "student.lora.target_modules: ['q_proj', 'q_proj'] repeats a name; expected each name "
            "once",
        ),
        (
            "train.stages",
            [{"steps": 3, "trainable": "embeddings"}],
            "train.stages: their steps sum up to 3, but train.max_steps is 100; expected equal "
            "numbers",
        ),
        (
            "deepspeed",
            {"a": [{"b": float("nan")}]},
            "deepspeed: it holds the number nan; expected finite numbers",
        ),
        (
            "student.model_options",
            {"scale": float("inf")},
            "student.model_options: it holds the number inf; expected finite numbers",
        ),
        (
            "train.timeout_s",
            1e300,
            "train.timeout_s: 1e+300 is not allowed; expected a number, above 0, at most 1000000",
        ),
        (
            "train.seed",
            2**32,
            "train.seed: 4294967296 is not allowed; expected a whole number, at least 0, below "
            "4294967296",
        ),
        (
            "a" * 100,
            1,
            f"{'a' * 60}…: unknown key; expected one of: {', '.join(RunConfig.model_fields)}",
        ),
        (
            "data.train",
            ["a\nb"],
            'data.train[0]: "a\\nb" is not a data file; expected a .jsonl file or asset:NAME',
        ),
        (
            "student",
            {"init": "a", "keep_layers": [0], "drop_layers": [1]},
            "student: keep_layers and drop_layers are both set; expected at most one",
        ),
        (
            "student",
            {"init": "a", "device": "cpu", "resources": {"gpus": 0.5}},
            "student: device is cpu but resources.gpus is 0.5; expected resources.gpus null or 0, "
            "or another device",
        ),
        (
            "student",
            {"init": "a", "device": "cuda", "resources": {"gpus": 0}},
            "student: device is cuda but resources.gpus is 0; expected resources.gpus null or "
            "above 0, or another device",
        ),
        (
            "train",
            {"global_batch": 8, "micro_batch": 3},
            "train.global_batch: 8 is not a multiple of train.micro_batch × student.num_ranks = "
            "3 × 1; expected a multiple of 3",
        ),
        (
            "student",
            {"init": "a", "num_ranks": 3},
            "train.global_batch: 8 is not a multiple of student.num_ranks = 3; expected equally "
            "many documents for each rank",
        ),
        (
            "train",
            {"max_steps": 5, "warmup_steps": 5},
            "train.warmup_steps: 5 never ends within train.max_steps = 5; expected fewer steps",
        ),
        (
            "train",
            {"max_steps": 5, "save_steps": 6},
            "train.save_steps: 6 is never reached within train.max_steps = 5; expected fewer "
            "steps, or 0 to save only at the end",
        ),
        (
            "data.held_out",
            ["b.jsonl", "train.jsonl"],
            'data.held_out[1]: "train.jsonl" is also in data.train; expected text unseen there',
        ),
        (
            "data.held_out",
            ["b.jsonl", "./x/../train.jsonl"],
            'data.held_out[1]: "./x/../train.jsonl" is also in data.train; expected text unseen '
            "there",
        ),
        (
            "deepspeed",
            {"zero_optimization": {"stage": 3}},
            "train.gradient_share_steps: shares of the gradient cannot be measured under ZeRO-3 "
            "with 4 micro-batches a step; expected 0, or train.micro_batch raised until there are "
            "two at most",
        ),
        (
            "checks.documents",
            1,
            "checks.documents: 1 is not possible; expected a whole number, 0 or at least 2",
        ),
        (
            "mixture.combine",
            "signals",
            'mixture.combine: "signals" is not allowed; expected "losses" or "targets"',
        ),
    ],
)
def test_one_problem(path: str, value: object, message: str | None):
    if message is None:
        (line,) = problems(changed(path, value))
        assert line.startswith("train: 5 is not allowed; expected a mapping (max_steps, ")
    else:
        assert problems(changed(path, value)) == [message]


@pytest.mark.usefixtures("toys")
class TestSeveralProblems:
    """All of them are told at once."""

    def test_everywhere(self):
        data = changed("train.seed", -1) | {"studnet": {}}
        data["teachers"][0]["methods"][0] |= {"weight": 0, "temperature": -1, "tau": 1}
        del data["output_dir"]
        assert problems(data) == [
            "teachers[0] (first).methods[0].weight: 0 is not allowed; expected a number, above 0",
            "teachers[0] (first).methods[0].tau: unknown key; expected one of: temperature, "
            "divergence, ks",
            "train.seed: -1 is not allowed; expected a whole number, at least 0, below 4294967296",
            "output_dir: missing; expected a path",
            'studnet: unknown key, did you mean "student"?',
        ]

    def test_nothing_to_train_on(self):
        data = minimal() | {
            "teachers": [],
            "mixture": {"ce_weight": 0},
            "compare": {"ce_only": {"learning_rate": 1e-3}},
        }
        assert problems(data) == [
            "mixture.ce_weight: 0 without teachers leaves nothing to train on; expected above 0, "
            "or a teacher",
            "compare.ce_only: without teachers the run itself is cross-entropy alone; expected "
            "null, or a teacher",
        ]

    def test_nothing_at_all(self):
        lines = problems({})
        assert [line.partition(":")[0] for line in lines] == ["student", "data", "output_dir"]

    def test_deepspeed_json(self, tmp_path: Path):
        path = tmp_path / "ds.json"
        path.write_text("{")
        (line,) = problems(changed("deepspeed", str(path)))
        assert line.startswith(f'deepspeed: "{path}" is not JSON (')
        path.write_text("[]")
        assert problems(changed("deepspeed", str(path))) == [
            f'deepspeed: "{path}" holds no mapping; expected DeepSpeed\'s options by name'
        ]
        path.write_text('{"steps_per_print": 1, "steps_per_print": 2}')
        assert problems(changed("deepspeed", str(path))) == [
            f'deepspeed: "{path}" is not JSON (key "steps_per_print" appears twice); expected a '
            "mapping in JSON"
        ]
        path.write_text('{"zero_optimization": {"stage": NaN}}')
        assert problems(changed("deepspeed", str(path))) == [
            "deepspeed: it holds the number nan; expected finite numbers"
        ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train:\n  seed: 0\n  seed: 1\n", 'x, line 3, column 3: key "seed" is already in line 2'),
        ("a: [1, 2\nb: 3\n", "x, line 2, column 2: expected ',' or ']', but got ':'"),
        (
            "a: &b [1]\nc: *b\n",
            "x, line 2, column 6: aliases are not supported; write the value out",
        ),
        ("[" * 20_000, "x, line 1, column 52: nested too deeply; expected at most 50 levels"),
        (
            "{a: " * 20_000,
            "x, line 1, column 202: nested too deeply; expected at most 50 levels",
        ),
        (
            "a: !!python/object/apply:os.getcwd []",
            "x, line 1, column 4: tags are not supported, found "
            "tag:yaml.org,2002:python/object/apply:os.getcwd",
        ),
        ("a: !!int x", "x, line 1, column 4: tags are not supported, found tag:yaml.org,2002:int"),
        ("3: a", "x, line 1, column 1: key 3 is not text; put it in quotes"),
        ("true: a", "x, line 1, column 1: key true is not text; put it in quotes"),
        ("? [a]\n: b", "x, line 1, column 3: key of several values is not text; put it in quotes"),
        (
            f"a: -{2**63}",
            "x, line 1, column 4: -9223372036854775808… has 19 digits; expected a whole number up "
            "to 9223372036854775807",
        ),
        (
            "a: " + "9" * 5000,
            "x, line 1, column 4: 99999999999999999999… has 5000 digits; expected a whole number "
            "up to 9223372036854775807",
        ),
        ('a: "\\0"', "x, line 1, column 4: text holds the character U+0000"),
        ('a: "\\ud800"', "x, line 1, column 4: text holds the character U+D800"),
        ('"\\e[2J": 1', "x, line 1, column 1: text holds the character U+001B"),
        ("a:\n\tb: 1", "x, line 2, column 1: found character '\\t' that cannot start any token"),
        (
            "a: 1\n---\nb: 2",
            "x, line 2, column 1: but found another document",
        ),
        (
            "a: \x00",
            "x: not YAML: unacceptable character #x0000: special characters are not allowed in "
            '"<unicode string>", position 3',
        ),
    ],
)
def test_yaml_errors(text: str, message: str):
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "x")
    assert str(caught.value) == message


def test_yaml_scalars():
    text = "{a: 1e-3, b: no, c: 010, d: 12:30, e: 2024-01-01, f: ~, g: .inf, h: 1_000, i: true}"
    assert list(parse_yaml(text, "x").values()) == [
        0.001, "no", "010", "12:30", "2024-01-01", None, float("inf"), 1000, True,
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["1e-3", "no", "010", "null", "", "12:30", "3", ".5", "é", "a: b"])
def test_text_survives_yaml(text: str):
    assert parse_yaml(dump_yaml({"k": text}), "x") == {"k": text}


class TestFiles:
    """What is said about files."""

    def error(self, path: Path) -> str:
        with pytest.raises(ConfigError) as caught:
            load_run(path)
        return str(caught.value)

    def test_absent(self, tmp_path: Path):
        path = tmp_path / "no.yaml"
        assert self.error(path) == (
            f"{path}: no such file; expected a run file, or one that comes with tutelage: "
            f"{', '.join(shipped_run_files())}"
        )

    def test_too_large(self, tmp_path: Path):
        path = tmp_path / "large.yaml"
        path.write_bytes(b"#" * (LARGEST_FILE + 1))
        assert self.error(path) == (
            f"{path}: 262145 bytes is too large for a run file; expected at most 262144 bytes"
        )

    def test_not_utf8(self, tmp_path: Path):
        path = tmp_path / "latin.yaml"
        path.write_bytes(b"a: \xe9")
        assert self.error(path) == f"{path}: byte 3 is not UTF-8; expected text"

    def test_not_a_mapping(self, tmp_path: Path):
        path = tmp_path / "list.yaml"
        path.write_text("- 1\n")
        assert self.error(path) == (
            f"{path}: holds no mapping; expected {', '.join(RunConfig.model_fields)}"
        )

    def test_own_file_comes_before_a_shipped_one(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        monkeypatch.chdir(tmp_path)
        assert find_run_file("smoke.yaml") == ROOT / "configs" / "smoke.yaml"
        (tmp_path / "smoke.yaml").write_text("")
        assert find_run_file("smoke.yaml") == Path("smoke.yaml")


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "configs").glob("*.yaml")))
class TestShipped:
    """Every run file in ``configs``."""

    def test_is_valid_and_round_trips(self, name: str, tmp_path: Path):
        config = load_run(name)
        resolved = tmp_path / "resolved.yaml"
        resolved.write_text(to_yaml(config))
        assert load_run(resolved) == config

    def test_explains_each_key(self, name: str):
        """The first time a key is written, a comment stands above it."""
        explained: set[str] = set()
        above = ""
        for line in (ROOT / "configs" / name).read_text().splitlines():
            key = line.strip().removeprefix("- ").partition(":")[0]
            is_section = line == f"{key}:" and not line.startswith(" ")
            if line.strip() and not line.strip().startswith("#") and not is_section:
                assert key in explained or above.startswith("#"), f"{name}: {key}"
                explained.add(key)
            above = line.strip()


def keys(kind: object, prefix: str = "") -> Iterator[str]:
    """Every key of the schema, as the reference writes it."""
    for name, field in fields_of(kind).items():
        inner, is_list = element_of(field.annotation)
        if fields_of(inner):
            yield from keys(inner, f"{prefix}{name}{'[]' if is_list else ''}.")
        elif name != "method":
            yield prefix + name


class TestReference:
    """The page made from the schema."""

    def test_lists_every_key(self):
        page = reference()
        found = list(keys(RunConfig))
        assert len(found) > 50
        assert [key for key in found if f"`{key}`" not in page] == []
        for name in methods.method_names():
            for option in fields_of(methods.method_class(name)):
                assert f"`{option}`" in page

    def test_every_key_has_a_meaning(self):
        rows = [line for line in reference().splitlines() if line.startswith("| `")]
        assert [row for row in rows if row.endswith("|  |")] == []

    def test_is_up_to_date(self):
        written = (ROOT / "docs" / "run_file.md").read_text()
        assert written == reference(), "run: python -m orchestrator.config.reference"
