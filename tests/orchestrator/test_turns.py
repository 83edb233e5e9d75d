"""Who shares a device asks for it, in the order of the calls."""

from types import SimpleNamespace

import pytest
import torch

from orchestrator.cluster import Machine
from orchestrator.config import parse_run
from orchestrator.in_turn import InTurn, Turns
from orchestrator.replicas import processes
from orchestrator.student.moving import move_whole
from orchestrator.turns import take_turns


class Actor:
    """Answers every method at once, and notes it; a reference is the number of the note."""

    def __init__(self, name, diary):
        self.name, self.diary = name, diary

    def __getattr__(self, method):
        def remote(*arguments, **_):
            self.diary.append((self.name, method, arguments))
            return len(self.diary) - 1

        return SimpleNamespace(remote=remote, options=lambda **_: SimpleNamespace(remote=remote))


@pytest.fixture
def diary():
    return []


def sharing(diary, *names):
    turns = Turns()
    return turns, {name: InTurn(Actor(name, diary), "cuda", turns) for name in names}


def test_the_device_changes_hands_in_the_order_of_the_calls(diary):
    turns, by_name = sharing(diary, "a", "b", "student")
    turns.begin(by_name["student"])
    for who, method in [("a", "signals"), ("a", "signals"), ("b", "signals"), ("student", "step")]:
        getattr(by_name[who], method).remote()
    assert [(who, method) for who, method, _ in diary] == [
        ("student", "leave"),
        ("a", "enter"),
        ("a", "signals"),
        ("a", "signals"),
        ("a", "leave"),
        ("b", "enter"),
        ("b", "signals"),
        ("b", "leave"),
        ("student", "enter"),
        ("student", "step"),
    ]


def test_who_enters_waits_for_who_leaves(diary):
    _, by_name = sharing(diary, "a", "b")
    by_name["a"].signals.remote()
    by_name["b"].signals.remote()
    enters = {who: arguments for who, method, arguments in diary if method == "enter"}
    leave = next(i for i, (_, method, _) in enumerate(diary) if method == "leave")
    assert enters == {"a": ("cuda", []), "b": ("cuda", [leave])}


def test_who_has_the_device_keeps_it(diary):
    turns, by_name = sharing(diary, "student")
    turns.begin(by_name["student"])
    by_name["student"].step.options(num_returns=2).remote()
    assert [method for _, method, _ in diary] == ["step"]


def test_a_handle_in_turn_is_one_process(diary):
    _, by_name = sharing(diary, "a")
    assert processes(by_name["a"]) == (by_name["a"].handle,)


TEACHER = {"name": "t", "model": "a", "methods": [{"name": "alm"}]}


@pytest.mark.parametrize(("num_gpus", "device"), [(0.0, "cpu"), (1.0, "cuda")])
def test_everyone_goes_to_the_device_there_is(diary, num_gpus, device):
    config = parse_run(
        {
            "student": {"init": "a"},
            "teachers": [TEACHER],
            "data": {"train": ["a.jsonl"], "held_out": ["b.jsonl"]},
            "resources": {"offload": True},
            "output_dir": "o",
        }
    )
    machine = Machine(num_cpus=2, num_gpus=num_gpus)
    live, students = take_turns(
        config, machine, {"t": Actor("t", diary)}, {"student/0": Actor("student/0", diary)}
    )
    live["t"].signals.remote([])
    students["student/0"].step.remote()
    moves = [(who, method, a[:1]) for who, method, a in diary if method in ("enter", "leave")]
    assert moves == [
        ("student/0", "leave", ()),
        ("t", "enter", (device,)),
        ("t", "leave", ()),
        ("student/0", "enter", (device,)),
    ]


def test_weights_and_moments_move_together():
    module = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    move_whole(module, optimizer, "meta")
    assert {p.device.type for p in module.parameters()} == {"meta"}
    moments = [v for state in optimizer.state.values() for v in state.values() if v.ndim]
    assert len(moments) == 4
    assert {moment.device.type for moment in moments} == {"meta"}
