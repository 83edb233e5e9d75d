"""The whole plan of a toy run, and what it says of runs that cannot fit."""

import json

import pytest
from typer.testing import CliRunner

from orchestrator.checkpoint import Tally
from orchestrator.cli import app
from orchestrator.config import load_run
from orchestrator.config.training import CeOnlyConfig, CompareConfig
from orchestrator.errors import ResourcesError
from orchestrator.planning.actual import Line, Usage, lines
from orchestrator.planning.disk import disk_of
from orchestrator.planning.gpus import CONTEXT
from orchestrator.planning.hardware import GIB, Declared, Hardware
from orchestrator.planning.limits import first_that_fits, student_changes, teacher_changes
from orchestrator.planning.plan import plan
from orchestrator.planning.skeleton import Sizes, sizes_of, stored_bytes, without_weights
from orchestrator.planning.timing import Worker, step_time
from orchestrator.setup import set_up
from orchestrator.sources import student_source

FAST = "1e9"

ON_GPUS = [
    "student.device=auto",
    "teachers.bytelevel.device=auto",
    "teachers.sentencepiece.device=auto",
]


SELF = [
    "teachers=[{name: own, kind: self, methods: [{name: kl}]}]",
    "mixture.ce_weight=1.0",
]


@pytest.fixture(scope="module")
def config():
    return load_run("smoke.yaml", [])


@pytest.fixture(scope="module")
def on_gpus():
    return load_run("smoke.yaml", ON_GPUS)


@pytest.fixture(scope="module")
def setup(config):
    return set_up(config)


@pytest.fixture(scope="module")
def found(config, setup):
    return plan(config, Declared(flops=float(FAST)), setup)


class TestPlan:
    """A toy run on this machine."""

    def test_every_process_has_its_memory(self, config, found):
        assert list(found.processes) == [*(t.name for t in config.teachers), "student"]
        for process in found.processes.values():
            assert process.device == "CPU"
            assert process.host == 0
            assert process.memory.parts["weights"] == process.sizes.weight_bytes
            assert process.memory.peak > process.sizes.weight_bytes

    def test_weights_are_those_on_disk(self, config):
        source = student_source(config.student)
        stored = stored_bytes(source)
        assert stored == sizes_of(without_weights(source)).parameters * 4

    def test_signals_follow_the_methods(self, config, found):
        for teacher in config.teachers:
            wire = found.wire[teacher.name]
            assert list(wire.per_token) == [entry.name for entry in teacher.methods]
            assert wire.fields_per_step < wire.per_step < wire.stored * 1.1

    def test_a_step_takes_as_long_as_who_binds_it(self, found):
        assert found.step.seconds >= max(found.step.alone.values())
        assert found.step.binds

    def test_it_fits(self, found):
        found.require_room()
        assert found.binds == found.limits[0]
        loads = [limit.load for limit in found.limits]
        assert loads == sorted(loads, reverse=True)

    def test_placement_names_every_process(self, config, found):
        assert len(found.placement) == len(config.teachers) + config.student.num_ranks

    def test_gpus_that_are_not_here(self, on_gpus, setup):
        declared = Declared(gpus=4.0, gpu_memory=80 * GIB, flops=1e14)
        there = plan(on_gpus, declared, setup)
        assert {process.device for process in there.processes.values()} == {"1 GPU"}
        names = {limit.name for limit in there.limits}
        assert {"GPU 0 (bytelevel)", "GPU 1 (sentencepiece)", "GPU 2 (student)"} < names

    def test_gpus_need_their_memory(self):
        with pytest.raises(ValueError, match="--gpu-memory 80"):
            Hardware.here(Declared(gpus=2.0))


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable`:FutureWarning")
class TestWhatDoesNotFit:
    """Refusals name the key and its new value."""

    def test_a_small_gpu(self, on_gpus, setup):
        declared = Declared(gpus=4.0, gpu_memory=2**20, flops=1e14)
        with pytest.raises(ResourcesError, match=r"GPU 2 \(student\) needs") as error:
            plan(on_gpus, declared, setup).require_room()
        assert "train.micro_batch: 1" in str(error.value)

    def test_the_micro_batch_is_told_that_fits(self, on_gpus, setup):
        big = on_gpus.model_copy(
            update={"train": on_gpus.train.model_copy(update={"global_batch": 8, "micro_batch": 8})}
        )
        large = Declared(gpus=4.0, gpu_memory=80 * GIB, flops=1e14)
        need = {}
        for micro in (8, 4):
            train = big.train.model_copy(update={"micro_batch": micro})
            process = plan(big.model_copy(update={"train": train}), large, setup)
            need[micro] = process.processes["student"].memory.peak
        between = (need[8] + need[4]) // 2
        declared = Declared(gpus=4.0, gpu_memory=between + CONTEXT, flops=1e14)
        [limit] = [
            limit for limit in plan(big, declared, setup).limits if "(student)" in limit.name
        ]
        assert need[4] < between < need[8]
        assert limit.advice[0].startswith("set train.micro_batch: 4 (")

    def test_three_on_one_gpu_are_counted_together(self, on_gpus, setup):
        declared = Declared(gpus=1.0, gpu_memory=2**20, flops=1e14)
        with pytest.raises(ResourcesError) as error:
            plan(on_gpus, declared, setup).require_room()
        text = str(error.value)
        assert "GPU 0 (bytelevel + sentencepiece + student) needs" in text
        assert "resources.offload" in text

    def test_more_gpus_than_there_are(self, setup):
        gpus = ["teachers.bytelevel.resources={gpus: 1, replicas: 4}", *ON_GPUS]
        declared = Declared(gpus=3.0, gpu_memory=80 * GIB, flops=1e14)
        asked = ["teachers.sentencepiece.resources.gpus=1", "student.resources.gpus=1"]
        with pytest.raises(ResourcesError, match="the GPUs' number needs 6 of 3 GPUs; lower"):
            plan(load_run("smoke.yaml", [*gpus, *asked]), declared, setup).require_room()

    def test_a_host_that_is_too_small(self, config, setup, monkeypatch):
        monkeypatch.setattr("orchestrator.planning.hardware.host_memory", lambda: GIB)
        with pytest.raises(ResourcesError, match="this machine's memory needs") as error:
            plan(config, Declared(gpus=0.0, flops=1e9), setup).require_room()
        assert "train.micro_batch: 1" in str(error.value) or "for " in str(error.value)

    def test_the_student_gets_smaller_step_by_step(self, config):
        train = config.train.model_copy(update={"global_batch": 8, "micro_batch": 4})
        wide = config.model_copy(update={"train": train})
        names = [name for name, _ in student_changes(wide)]
        assert names[:4] == [
            "train.micro_batch: 2",
            "train.micro_batch: 1",
            "student.gradient_checkpointing: true",
            "student.dtype: bfloat16",
        ]

    def test_a_teacher_gets_smaller_step_by_step(self, on_gpus):
        names = [name for name, _ in teacher_changes(on_gpus.teachers[0])]
        assert "dtype: bfloat16" in names
        assert names[-1] == "resources.gpus: 8, model_options.device_map: auto"

    def test_nothing_helps(self):
        text = first_that_fits(iter([("a: 1", 5), ("a: 2", 4)]), lambda size: size, 1)
        assert text[0].startswith("even a: 2 needs")


class TestDisk:
    """Bytes that a run writes."""

    sizes = Sizes(100, 100, 0, 1, 8, 8, 8, 10, 4)

    def saved(self, config, **changed):
        train = config.train.model_copy(update=changed)
        return config.model_copy(update={"train": train, "compare": CompareConfig()})

    def test_by_hand(self, config):
        none = disk_of(self.saved(config, max_steps=10, save_steps=0), self.sizes)
        assert (none.model, none.num_checkpoints, none.total) == (400, 0, 400)
        all_kept = disk_of(self.saved(config, max_steps=10, save_steps=4), self.sizes)
        assert (all_kept.checkpoint, all_kept.num_checkpoints) == (400 + 1200, 3)
        assert all_kept.total == 400 + 3 * 1600
        limited = disk_of(
            self.saved(config, max_steps=10, save_steps=4, save_total_limit=1), self.sizes
        )
        assert limited.total == 400 + 2 * 1600

    def test_the_best_one_counts_among_those_that_stay(self, config):
        saved = {"max_steps": 20, "save_steps": 4, "keep_best": True}
        for limit, kept in ((1, 2), (2, 2), (3, 3)):
            found = disk_of(self.saved(config, **saved, save_total_limit=limit), self.sizes)
            assert found.num_checkpoints == kept
            assert found.total == 400 + (kept + 1) * 1600

    def test_adapters_alone_have_a_state(self, config):
        few = Sizes(100, 10, 0, 1, 8, 8, 8, 10, 4)
        found = disk_of(self.saved(config, max_steps=10, save_steps=10), few)
        assert found.checkpoint == 400 + 3 * 4 * 10

    def test_a_second_arm_writes_as_much(self, config):
        arm = config.compare.model_copy(update={"ce_only": CeOnlyConfig(learning_rate=1e-3)})
        both = self.saved(config, max_steps=10, save_steps=5).model_copy(update={"compare": arm})
        assert disk_of(both, self.sizes).total == 2 * (400 + 2 * 1600)

    def test_versions_of_a_teacher_that_follows(self):
        follows = load_run("smoke.yaml", [*SELF, "teachers.own.refresh={every: 2}"])
        found = disk_of(self.saved(follows, max_steps=4, save_steps=4), self.sizes)
        assert found.checkpoint == 400 + 4 * 4 * 100 + 400  # the mean, and the version that speaks
        assert found.total == 400 + found.checkpoint + 2 * 400


class TestTime:
    """Who binds a step."""

    def test_own_devices(self):
        found = step_time(
            {"a": Worker(3.0, {"GPU 0": 1.0}), "student": Worker(2.0, {"GPU 1": 1.0})}
        )
        assert (found.seconds, found.binds) == (3.0, "a")

    def test_cores_that_do_not_suffice(self):
        both = {"a": Worker(2.0, {"CPU": 0.75}), "student": Worker(2.0, {"CPU": 0.75})}
        found = step_time(both)
        assert (found.seconds, found.binds) == (3.0, "CPU, shared by a, student")


class TestActual:
    """The plan beside what was measured."""

    def test_lines(self, found, tmp_path):
        name = next(iter(found.wire))
        Usage({"student": GIB, name: GIB}, {"student": 0}, {name: 2000}, 2).save(tmp_path)
        told = lines(found, Usage.load(tmp_path), Tally(seconds=found.num_steps * 2.0))
        by_name = {line.name: line for line in told}
        assert by_name["step time"].actual == 2.0
        assert by_name[f"signals of {name} a step"].actual == 1000
        assert by_name["memory of student"].actual == GIB
        assert by_name["memory of student"].planned == found.processes["student"].memory.peak

    def test_text(self):
        assert str(Line("memory", 3 * GIB, 2 * GIB, "B")) == (
            "memory: 3.00 GiB planned, 2.00 GiB actual (+50%)"
        )
        assert str(Line("step time", 1.0, 2.0, "s")).endswith("(-50%)")

    def test_nothing_measured(self, tmp_path):
        assert Usage.load(tmp_path) is None


class TestCommand:
    """``tutelage plan``."""

    def run(self, *arguments):
        return CliRunner().invoke(app, ["plan", "smoke.yaml", "--device-speed", FAST, *arguments])

    def test_tables(self):
        result = self.run()
        assert result.exit_code == 0, result.output
        for text in ("Memory of each process", "Signals on the wire", "What is tightest"):
            assert text in result.stdout

    def test_json(self):
        result = self.run("--json")
        data = json.loads(result.stdout)
        assert data["fits"] is True
        assert data["processes"]["student"]["memory"]["peak"] > 0

    @pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable`:FutureWarning")
    def test_what_cannot_fit_ends_with_3(self):
        result = self.run(*ON_GPUS, "--gpus", "4", "--gpu-memory", "0.001")
        assert result.exit_code == 3
        assert "Memory of each process" in result.stdout
        assert "does not fit" in result.stderr
