"""Trains students under DeepSpeed, each rank in a process of its own.

DeepSpeed keeps global state, so every job needs new processes; they are forked from this one,
which has imported everything already.

    python deepspeed_ranks.py            for each folder that comes in, one a line: reads its
                                         jobs.pickle, writes one .pt a job, or .error; says done
"""

import multiprocessing
import os
import pickle
import socket
import sys
import tempfile
import traceback
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

JOB_SECONDS = 60
BEFORE_THE_FORKS = (
    "setuptools",
    "distutils.ccompiler",
    "deepspeed",
    "deepspeed.module_inject.auto_ep_config",
    "deepspeed.module_inject.auto_ep_layer",
    "deepspeed.runtime.bf16_optimizer",
    "deepspeed.runtime.zero.muon.muon_optimizer",
    "deepspeed.runtime.zero.stage3",
    "deepspeed.runtime.zero.stage_1_and_2",
    "orchestrator.student.worker",
)
"""What a rank needs, also what DeepSpeed would import in each when it starts its engine."""


def main(extensions: Path) -> None:
    from orchestrator.student.deepspeed import prepare_environment

    prepare_environment("cpu", extensions)
    for module in BEFORE_THE_FORKS:
        import_module(module)
    for line in sys.stdin:
        run_jobs(Path(line.rstrip("\n")))
        print("\ndone", flush=True)


def run_jobs(folder: Path) -> None:
    """One after another, each in processes of its own."""
    jobs: dict[str, dict[str, Any]] = pickle.loads((folder / "jobs.pickle").read_bytes())
    fork = multiprocessing.get_context("fork")
    for name, job in jobs.items():
        port, num_ranks = free_port(), job["spec"].num_ranks
        ranks = [
            fork.Process(target=run_rank, args=(rank, port, job, folder / name))
            for rank in range(num_ranks)
        ]
        for process in ranks:
            process.start()
        for process in ranks:
            process.join(JOB_SECONDS)
            process.kill()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def run_rank(rank: int, port: int, job: dict[str, Any], target: Path) -> None:
    """Train one rank; its result or its error goes into a file, and the process ends at once."""
    import torch

    try:
        result = train(rank, port, job)
        if rank == 0:
            torch.save(result, target.with_suffix(".pt"))
    except BaseException:
        target.with_suffix(f".{rank}.error").write_text(traceback.format_exc())
        raise
    finally:
        sys.stdout.flush()
        os._exit(0)


def train(rank: int, port: int, job: dict[str, Any]) -> dict[str, Any]:
    """All steps of a job on this rank's share of each batch, with an evaluation in between.

    A job may continue from ``spec.resume_from``; ``saves`` maps steps done to state folders, and
    ``versions`` to folders of the running mean as a model. After the steps in ``offloads`` all that
    ZeRO partitions leaves the device and comes back.
    """
    import torch

    from losses.prediction import ELEMENTS_IN_MEMORY
    from orchestrator.student.moving import move_partitions
    from orchestrator.student.state import restore_random_state
    from orchestrator.student.versions import save_version
    from orchestrator.student.worker import build_trainer, join_group

    torch.set_num_threads(1)
    spec = job["spec"]
    join_group(rank, spec.num_ranks, ("127.0.0.1", port))
    trainer = build_trainer(spec, "cpu")
    for teacher, head in job["heads"].items():
        trainer.engine.module.attach_head(teacher, head.head(torch.device("cpu")))
    module = trainer.engine.module
    if module.student.elements_in_memory == ELEMENTS_IN_MEMORY:  # not so under ZeRO-3
        module.student = replace(module.student, elements_in_memory=job["elements_in_memory"])
    reports, scores, saves = [], [], job.get("saves", {})
    if spec.resume_from is not None:
        restore_random_state(spec.resume_from, rank)
    for done, (documents, signals, num_bytes) in enumerate(job["steps"], job.get("first", 0)):
        if done in job.get("offloads", ()):
            move_partitions(trainer.engine._engine, module, "cpu")
            trainer.engine._engine.reload_states()
        if done in saves:
            trainer.save_state(done, saves[done], rank)
        if (version := job.get("versions", {}).get(done)) is not None:
            save_version(trainer.engine, version, torch.float32, rank)
        mine = slice(rank, None, spec.num_ranks)
        scores = trainer.evaluate(documents)
        reports.append(
            trainer.step(
                documents[mine], signals[mine], num_bytes, measure_shares=job["measure_shares"]
            )
        )
    return {"reports": reports, "scores": scores, "weights": trainer.engine.state_dict()}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as extensions:
        main(Path(extensions))
