"""What a process logs reaches its file and its caller; a call that hangs leaves its stacks."""

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from teachers.process_log import ProcessLog

log = logging.getLogger("teachers.something")


@pytest.fixture
def process_log(tmp_path) -> Iterator[ProcessLog]:
    opened = ProcessLog(tmp_path / "logs" / "teacher-a.log", 0.1)
    yield opened
    opened.close()


def text(folder: Path) -> str:
    return (folder / "logs" / "teacher-a.log").read_text()


def test_file_and_warnings(process_log, tmp_path):
    log.info("ready")
    log.warning("token_budget is %d", 7)
    lines = text(tmp_path).splitlines()
    assert [line.split(" ", 3)[3] for line in lines] == ["INFO ready", "WARNING token_budget is 7"]
    assert process_log.take_warnings() == ("token_budget is 7",)
    assert process_log.take_warnings() == ()


def test_stacks_of_a_call_that_takes_too_long(process_log, tmp_path):
    with process_log.stacks_if_late():
        time.sleep(0.5)
    assert "Timeout (" in text(tmp_path)
    assert "test_stacks_of_a_call_that_takes_too_long" in text(tmp_path)


def test_nothing_of_one_that_is_quick(process_log, tmp_path):
    with process_log.stacks_if_late():
        pass
    time.sleep(0.3)
    assert text(tmp_path) == ""


def test_without_a_file(tmp_path):
    opened = ProcessLog(None, 0.01)
    with opened.stacks_if_late():
        log.warning("careful")
    assert opened.take_warnings() == ("careful",)
    opened.close()
