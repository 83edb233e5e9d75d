"""What a run records as it goes is a cache after one epoch; parity is looked at before step 0."""

import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.arm import batches_from
from orchestrator.cluster import Machine
from orchestrator.errors import ConfigError
from orchestrator.gates.chosen import spread
from orchestrator.run_folder import locked
from orchestrator.setup import set_up
from orchestrator.signal_cache.record import recorded, records_locked
from orchestrator.specs import teacher_specs
from orchestrator.validation import validate
from teachers.signal_cache.cache import SHARDS, SignalCache
from teachers.signal_cache.recording import RecordingTeacher, live_teacher
from teachers.teacher import Teacher

MACHINE = Machine(num_cpus=1, num_gpus=0.0)


@pytest.fixture
def recording(small_run, tmp_path):
    """A run that records one teacher: its config, text and that teacher's spec."""
    config = small_run(f"teachers.bytelevel.record={tmp_path}/record")
    setup = set_up(config)
    [spec, other] = recorded(teacher_specs(config, MACHINE), config, setup, checked=True)
    assert other.record is None
    return config, setup, pickle.loads(pickle.dumps(spec))  # as Ray sends it


def run_epoch(config, setup, teacher) -> None:
    """What a run asks of a teacher: checks, scores, head, steps."""
    teacher.signals(spread(setup.train.documents, config.checks.documents))
    teacher.evaluate(setup.held_out.documents)
    teacher.head_weights()
    for batch in batches_from(0, setup.train.documents, config):
        for shard in batch.shards:
            teacher.signals(shard)


def signals_of(folder: Path) -> dict[str, list]:
    """The bytes of each document's signals."""
    cache = SignalCache.open(folder)
    found = {}
    for shard in cache.shards:
        if shard.facts.holds == "signals":
            for digest in shard.facts.documents:
                assert digest not in found
                stored, place = cache._places[digest]
                [row] = cache._opened(stored.path).row(place)
                found[digest] = [(name, getattr(row, name).tobytes()) for name in vars(row)]
    return found


def test_after_an_epoch_it_is_what_a_capture_writes(recording, captured, from_caches, tmp_path):
    config, setup, spec = recording
    teacher = spec.build()
    assert isinstance(teacher, RecordingTeacher)
    assert isinstance(live_teacher(teacher), Teacher)
    run_epoch(config, setup, teacher)
    assert signals_of(tmp_path / "record") == signals_of(captured["bytelevel"])
    ours, theirs = (SignalCache.open(f) for f in (tmp_path / "record", captured["bytelevel"]))
    assert ours.manifest == theirs.manifest
    assert ours.scores() == theirs.scores()
    assert (ours.head().weight == theirs.head().weight).all()
    assert set_up(from_caches(captured | {"bytelevel": tmp_path / "record"}))


def test_a_second_epoch_writes_nothing_more(recording, tmp_path, contents):
    config, setup, spec = recording
    run_epoch(config, setup, spec.build())
    before = contents(tmp_path / "record")
    run_epoch(config, setup, spec.build())
    assert contents(tmp_path / "record") == before


def test_a_teacher_that_comes_back_goes_on(recording, captured, tmp_path):
    """One process for each request, as if each had been killed after its answer."""
    config, setup, spec = recording
    fresh = pickle.dumps(spec)
    checked = spread(setup.train.documents, config.checks.documents)
    steps = batches_from(0, setup.train.documents, config)
    for documents in (checked, *(batch.shards[0] for batch in steps)):
        pickle.loads(fresh).build().signals(documents)
    assert signals_of(tmp_path / "record") == signals_of(captured["bytelevel"])


@pytest.mark.parametrize("turn", [0, 1])
def test_replicas_leave_no_hole(small_run, tmp_path, turn):
    """Each of two replicas gets half of the checks and every other document."""
    config = small_run(
        f"teachers.bytelevel.record={tmp_path}/record", "teachers.bytelevel.resources.replicas=2"
    )
    setup = set_up(config)
    spec, _ = recorded(teacher_specs(config, MACHINE), config, setup, checked=True)
    replicas = [pickle.loads(pickle.dumps(spec)).build() for _ in range(2)]
    documents = setup.train.documents
    checked = spread(documents, config.checks.documents)
    for place, group in enumerate((checked[:2], checked[2:], *([d] for d in documents))):
        replicas[(place + turn * (place > 1)) % 2].signals(group)
    assert len(signals_of(tmp_path / "record")) == len(documents)


def test_what_goes_to_others_is_not_written(recording, tmp_path):
    config, setup, spec = recording
    checked = spread(setup.train.documents, config.checks.documents)
    left = [document for document in setup.train.documents if document not in checked]
    elsewhere = replace(left[0], teachers=("sentencepiece",))
    own = replace(left[1], teachers=("bytelevel",))
    spec.build().signals([elsewhere, own])
    assert list(signals_of(tmp_path / "record")) == [own.digest]


def test_the_folder_must_be_of_the_same_signals(small_run, captured, tmp_path):
    folder = tmp_path / "cache"
    shutil.copytree(captured["bytelevel"], folder)
    config = small_run(f"teachers.bytelevel.record={folder}", "train.seed=1")
    with pytest.raises(ConfigError, match=r"teachers\.bytelevel\.record: .* other signals"):
        recorded(teacher_specs(config, MACHINE), config, set_up(config), checked=False)
    config = small_run(f"teachers.bytelevel.record={folder}")
    [path] = (folder / SHARDS).glob("signals-*.safetensors")
    path.write_bytes(path.read_bytes()[:-1])
    assert recorded(teacher_specs(config, MACHINE), config, set_up(config), checked=False)
    assert not path.exists()  # it is recorded again


@pytest.mark.parametrize(
    ("others", "what"),
    [
        (["teachers.sentencepiece.record={}"], "the record of teacher bytelevel"),
        (["output_dir={}"], "output_dir"),
        (
            ["teachers.sentencepiece.kind=cache", "teachers.sentencepiece.path={}"],
            "the path of teacher sentencepiece",
        ),
    ],
)
def test_a_record_has_a_folder_of_its_own(small_run, tmp_path, others, what):
    folder = tmp_path / "record"
    keys = [f"teachers.bytelevel.record={folder}", *(key.format(folder) for key in others)]
    with pytest.raises(ConfigError, match=f"record: .* is {what} as well; expected a folder of it"):
        small_run(*keys)


def test_a_record_that_cannot_be_written_is_told_at_once(small_run, tmp_path):
    (tmp_path / "file").touch()
    config = small_run(f"teachers.bytelevel.record={tmp_path}/file")
    with pytest.raises(ConfigError, match=r"\(bytelevel\).record: .*file is a file; expected a"):
        list(validate(config))


def test_one_process_writes_at_a_time(small_run, tmp_path):
    config = small_run(f"teachers.bytelevel.record={tmp_path}/record")
    with (
        records_locked(config),
        pytest.raises(ConfigError, match="another process"),
        locked(tmp_path / "record"),
    ):
        pytest.fail("two at a time")
    with locked(tmp_path / "record"):
        pass


@pytest.mark.parametrize(("model", "passes"), [("bytelevel", True), ("student", False)])
def test_parity_with_a_live_model(captured, from_caches, model, passes):
    config = from_caches(captured, f"teachers.bytelevel.model_parity=asset:toy/{model}")
    setup = set_up(config)
    teacher = teacher_specs(config, MACHINE)[0].build()
    if passes:
        assert len(teacher.signals(setup.train.documents[:5])) == 5
    else:
        with pytest.raises(ValueError, match=r"teacher bytelevel: its IdentifiedStates of documen"):
            teacher.signals(setup.train.documents[:5])
        with pytest.raises(ValueError, match="differ from the live model's"):  # it stays in doubt
            teacher.signals(setup.train.documents[5:])


def test_parity_has_a_tolerance(captured, from_caches):
    keys = ("model_parity=asset:toy/student", "parity_tolerance=1e9")
    config = from_caches(captured, *(f"teachers.bytelevel.{key}" for key in keys))
    setup = set_up(config)
    with pytest.raises(ValueError, match="differ from the live model's by inf"):  # other widths
        teacher_specs(config, MACHINE)[0].build().signals(setup.train.documents[:1])
