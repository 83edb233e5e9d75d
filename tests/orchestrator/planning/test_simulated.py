"""Simulated teachers answer like real ones, without torch; and what Ray adds to signals."""

import subprocess
import sys
from pathlib import Path

import pytest
from ray import cloudpickle

from benchmarks.simulated_teachers import SimulatedStudent, SimulatedTeacher, num_tokens
from losses.document import text_document
from losses.methods import method_class, method_names
from teachers.teacher import Teacher

ROOT = Path(__file__).resolve().parents[3]


def test_bytes_and_order():
    teacher = SimulatedTeacher("t", 0.0, 100.0)
    documents = [text_document("a", "x" * 40), text_document("b", "x" * 8)]
    rows = teacher.signals(documents)
    assert [sum(s.num_bytes for s in row) for row in rows] == [1000, 200]
    assert num_tokens(documents[1]) == 2
    parts = teacher.signals_of_parts(documents, [[0], [0]])
    assert parts[0] == 2
    assert len(parts) == 1 + 2 * 2


def test_it_takes_its_time():
    teacher = SimulatedTeacher("t", 0.01, 1.0, seconds_per_token=0.001)
    teacher.signals([text_document("a", "x" * 40)])
    assert teacher.seconds_asleep == pytest.approx(0.02)
    assert teacher.worked().busy_s >= 0.02


def test_the_student_refuses_other_documents(monkeypatch):
    monkeypatch.setattr("benchmarks.simulated_teachers._fetched", lambda reference: reference)
    documents = [text_document("a", "x" * 40)]
    rows = SimulatedTeacher("t", 0.0, 100.0).signals(documents)
    times = SimulatedStudent(0.0).step(documents, {"t": rows}, 40)
    assert times.received_bytes == 1000
    with pytest.raises(ValueError, match="signals of 1 of 2 documents"):
        SimulatedStudent(0.0).step(documents * 2, {"t": rows}, 40)


def test_no_torch_is_imported():
    code = "import sys, benchmarks.simulated_teachers; print('torch' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout == "False\n"


@pytest.mark.parametrize("name", method_names())
def test_signals_are_little_more_than_their_fields(name, language_model, documents):
    """Pickled as Ray does it, arrays out of band; ``benchmarks/wire.py`` asks Ray itself."""
    model = language_model("llama", "bytelevel", seed=1)
    plain = [document for document in documents if not document.is_chat]
    for [signal] in Teacher(model, [method_class(name)()]).signals(plain):
        buffers: list[object] = []
        pickled = cloudpickle.dumps(signal, protocol=5, buffer_callback=buffers.append)
        size = len(pickled) + sum(memoryview(buffer).nbytes for buffer in buffers)
        assert size <= signal.num_bytes + 1000
