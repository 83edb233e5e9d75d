"""``python -m benchmarks`` knows every benchmark and says what each is for."""

import sys

import pytest

from benchmarks import __main__ as benchmarks

CLUSTER = ("overlap", "faults", "wire", "simulate", "scaling")


def test_each_has_a_line_of_its_own(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--help"])
    with pytest.raises(SystemExit, match="0"):
        benchmarks.main()
    known, lines = benchmarks.described(), capsys.readouterr().out.splitlines()
    assert {*CLUSTER, *benchmarks.USUAL} <= known.keys()
    for name, text in known.items():
        assert any(line.startswith(f"{name} ") and line.endswith(text) for line in lines)
    assert all(known.values())


@pytest.mark.parametrize("name", CLUSTER)
def test_options_are_those_of_the_one_that_is_named(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmarks", name, "--help"])
    with pytest.raises(SystemExit, match="0"):
        benchmarks.main()
    assert f"usage: benchmarks.{name} " in capsys.readouterr().out


def test_an_unknown_one_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmarks", "overlaps"])
    with pytest.raises(SystemExit, match="2"):
        benchmarks.main()
    assert "invalid choice: 'overlaps'" in capsys.readouterr().err
