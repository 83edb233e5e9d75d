"""Cores and hyperthreads, speeds and their units, memory that a container allows."""

import pytest
import torch

from orchestrator.planning import hardware
from orchestrator.planning.hardware import GIB, Declared, Hardware, cores, flops_of, object_store


def machine(**changed):
    found = {"num_cpus": 8, "memory": GIB, "num_gpus": 0.0, "gpu_memory": 0, "flops": 1e9}
    return Hardware(**(found | changed))


@pytest.fixture
def four_cores(monkeypatch):
    """Four cores that show eight hyperthreads."""
    monkeypatch.setattr(hardware, "physical_cores", lambda: 4)
    monkeypatch.setattr(hardware, "gain_of_threads", lambda threads: float(threads))


def test_hyperthreads_add_nothing(four_cores):
    assert [cores(threads) for threads in (1, 2, 4, 8)] == [1.0, 2.0, 4.0, 4.0]


@pytest.mark.parametrize(("alone", "together", "gain"), [(1.0, 1.0, 2.0), (1.0, 2.0, 1.0)])
def test_hyperthreads_that_look_like_cores_take_twice_the_time(monkeypatch, alone, together, gain):
    """Seconds are the processor's, summed: two cores need as many as one, hyperthreads more."""
    seconds = {1: alone, 2: together}
    monkeypatch.setattr(hardware, "_quickest", lambda work, on_cpu, threads: seconds[threads])
    hardware.gain_of_threads.cache_clear()
    try:
        assert hardware.gain_of_threads(2) == gain
    finally:
        hardware.gain_of_threads.cache_clear()


def test_physical_cores_are_those_that_may_be_used(monkeypatch):
    monkeypatch.setattr(hardware.psutil, "cpu_count", lambda logical: 32 if logical else 16)
    assert 1 <= hardware.physical_cores() <= len(hardware.psutil.Process().cpu_affinity())


def test_a_declared_speed_is_that_of_a_core(four_cores):
    assert flops_of(machine(), torch.float32, 64, 1) == 1e9
    assert flops_of(machine(), torch.float32, 64, 8) == 4e9


def test_beside_gpus_it_is_that_of_a_gpu(four_cores, monkeypatch):
    monkeypatch.setattr(hardware, "measured_flops", lambda dtype, width, device: 5.0)
    with_gpus = machine(num_gpus=2.0, gpu_memory=GIB, flops=3e14)
    assert flops_of(with_gpus, torch.bfloat16, 64, 0) == 3e14
    assert flops_of(with_gpus, torch.bfloat16, 64, 2) == 10.0


def test_a_measured_speed_is_in_operations_a_second(monkeypatch):
    """Two for each of 512 × 16 × 48 products, in half a second."""
    monkeypatch.setattr(hardware, "_quickest", lambda work, on_cpu: 0.5)
    hardware.measured_flops.cache_clear()
    try:
        found = hardware.measured_flops(torch.float32, 16, "cpu")
    finally:
        hardware.measured_flops.cache_clear()
    assert found == 2 * 512 * 16 * 48 / 0.5


def test_a_measurement_keeps_the_number_of_threads():
    before = torch.get_num_threads()
    seconds = hardware._quickest(lambda: sum(range(1000)), on_cpu=True)
    assert 0 < seconds < 1
    assert torch.get_num_threads() == before


def test_a_container_has_less(monkeypatch, tmp_path):
    (tmp_path / "memory.max").write_text(f"{GIB}\n")
    monkeypatch.setattr(hardware, "MEMORY_LIMITS", (tmp_path / "memory.max", tmp_path / "none"))
    assert hardware.host_memory() == GIB
    (tmp_path / "memory.max").write_text("max\n")
    assert hardware.host_memory() == hardware.psutil.virtual_memory().total


def test_the_object_store_is_that_of_ray(monkeypatch, tmp_path):
    monkeypatch.setattr(hardware, "SHARED_MEMORY", tmp_path / "absent")
    assert object_store(10 * GIB) == 3 * GIB
    assert object_store(2**42) == 200 * 10**9


def test_here():
    found = Hardware.here(Declared(gpus=0.0))
    assert found.store <= 0.3 * found.memory
