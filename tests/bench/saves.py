"""Asynchronous saves beside synchronous ones of the same ranks, taking turns.

A synchronous save blocks training from its beginning to its commit; an asynchronous one while it is
begun, before an update as long as the state is not copied, and while ranks agree that all is
written and committed. Between these the ranks wait idle, as they would for a GPU: ``PASS_SECONDS``
until the update, and as long as threads write. Beside it is the same save in which the update
follows at once, and waits for the whole copy, and one whose memory holds half of the copy
(``pretrain.save_memory_gb``), so that the update waits for the rest to be written.

Three kinds of synchronous saves are beside it: ours, of the same files, and megatron.core's own of
either format, ``fully_reshardable`` with its gather of the optimizer and ``dp_reshardable`` without
one. All make their files durable, and data-parallel ranks divide what they have in common.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jobs.contract import rundir, specs
from jobs.contract.files import read_json, write_json
from jobs.contract.stage_specs import ParallelSpec, PretrainSpec
from meditron_cli.config.load import load
from meditron_cli.runs.prepare import plan_of
from tests.bench import Figure, _starts, ratio

SETTINGS = {
    "model.layers": 8,
    "model.hidden_size": 1024,
    "model.ffn_hidden_size": 2816,
    "model.attention_heads": 16,
    "model.kv_heads": 8,
    "pretrain.precision": "bf16",
}
"""100 M parameters: 1.4 GB with an optimizer."""

MEGATRON = ("fully_reshardable", "dp_reshardable")
SYNCHRONOUS = ("synchronous", *MEGATRON)

DATA_RANKS = 2
ROUNDS = 5
POLL_SECONDS = 0.01
PASS_SECONDS = 1.0
"""Of the forward and backward pass between a save and the next update: that of a small model on few
tokens. MEDITRON-70B's steps took 52 s.
"""
ASYNCHRONOUS = {"beside": PASS_SECONDS, "at once": 0.0, "half": PASS_SECONDS}
"""Seconds of the pass by the name of a kind of saves."""


def figures(rounds: int = ROUNDS, settings: Mapping[str, Any] = SETTINGS) -> list[Figure]:
    with tempfile.TemporaryDirectory() as name:
        run = rundir.RunDir(Path(name))
        overrides = [f"{key}={value}" for key, value in settings.items()]
        plan = plan_of(load("local", "tiny", None, overrides), ("pretrain",))
        write_json(run.spec("pretrain", 0), specs.to_json(plan.stages[0].tasks[0]))
        words = (str(run.root), str(rounds))
        found = _starts.run_ranks(DATA_RANKS, "tests.bench.saves", *words)
    seconds = found["seconds"]
    median = {name: statistics.median(times) for name, times in seconds.items()}
    ratios = {name: ratio(seconds["beside"], seconds[name]) for name in SYNCHRONOUS}
    at_once = {name: ratio(seconds["at once"], seconds[name]) for name in SYNCHRONOUS}
    compared = ", ".join(
        f"{ratios[name]:.3f} ({at_once[name]:.3f}) of {name} ({median[name]:.2f} s)"
        for name in ratios
    )
    note = (
        f"{median['beside']:.3f} s ({median['at once']:.3f} s where the update waits for the whole "
        f"copy, {median['half']:.3f} s with memory for half of it): {compared}, of which "
        f"{median['gather']:.2f} s gather; {found['bytes'] / 1e9:.2f} GB, {DATA_RANKS} ranks"
    )
    return [Figure("async_blocked_over_sync", max(ratios.values()), "≤ 0.1", note)]


def measure(folder: Path, rounds: int, rank: int, world: int) -> None:
    """Save as one of the ranks; rank 0 prints the seconds."""
    from jobs.engine import device

    place = device.start("cpu", rank, world, 0)

    from jobs.engine import model, optim, sharded_state
    from jobs.engine.saving.saver import Saver

    task = specs.task_from_json(read_json(rundir.RunDir(folder).spec("pretrain", 0)))
    assert isinstance(task.spec, PretrainSpec)
    layout = ParallelSpec(1, 1, world, False, True, "none")
    spec = dataclasses.replace(task.spec, parallel=layout)
    model.start_parallel(layout, spec.seed)
    network = model.build(spec.model, layout, spec.precision, place)
    trained = sharded_state.TrainingState([network], optim.prepare([network], spec).optimizer)
    half = spec.model.checkpoint_bytes(spec.precision) // world // 2
    limits = {name: half if name == "half" else 1 << 40 for name in ASYNCHRONOUS}
    savers = {
        "synchronous": Saver(folder / "synchronous", trained, 0),
        **{
            name: Saver(folder / name, trained, 0, (), lambda limit=limit: limit)
            for name, limit in limits.items()
        },
    }
    names = (*SYNCHRONOUS, *ASYNCHRONOUS, "gather")
    seconds: dict[str, list[float]] = {name: [] for name in names}
    megatron = {name: MegatronSaves(trained, name) for name in MEGATRON}
    for number in range(rounds + 1):
        found: dict[str, float] = {}
        record = dataclasses.replace(
            _starts.record(spec, dataclasses.asdict(layout)), iteration=number + 1
        )
        found["synchronous"], size = save_and_wait(savers["synchronous"], record)
        for name, pass_seconds in ASYNCHRONOUS.items():
            found[name] = save_beside(savers[name], record, pass_seconds)
        for name, saves in megatron.items():
            gathered, found[name] = saves.save(folder / name)
            if name == "fully_reshardable":
                found["gather"] = gathered
        if number:  # memory is allocated in the first round
            for name, took in found.items():
                seconds[name].append(took)
    if rank == 0:
        print(json.dumps({"seconds": seconds, "bytes": size}))
    device.end()


def save_and_wait(saver: Any, record: Any) -> tuple[float, int]:
    """Save; return the seconds until the commit, and the bytes."""
    import torch

    torch.distributed.barrier()
    started = time.perf_counter()
    saver.begin(record)
    _, stored = saver.finish()
    return time.perf_counter() - started, stored.bytes


def save_beside(saver: Any, record: Any, pass_seconds: float) -> float:
    """Save beside a training of which the next update follows a pass of so many seconds; return
    those for which it is blocked.
    """
    import torch

    torch.distributed.barrier()
    started = time.perf_counter()
    saver.begin(record)
    blocked, stored = time.perf_counter() - started, None
    time.sleep(pass_seconds)
    started = time.perf_counter()
    saver.wait_for_copy()
    blocked += time.perf_counter() - started
    while stored is None:
        while not saver.is_ready():
            time.sleep(POLL_SECONDS)
        torch.distributed.barrier()
        started = time.perf_counter()
        stored = saver.advance()
        blocked += time.perf_counter() - started
    return blocked


class MegatronSaves:
    """Synchronous saves by megatron.core's own writer, in one of its formats."""

    def __init__(self, trained: Any, kind: str) -> None:
        from megatron.core import parallel_state
        from megatron.core.dist_checkpointing.strategies import fully_parallel
        from megatron.core.dist_checkpointing.strategies.torch import TorchDistSaveShardedStrategy

        group = parallel_state.get_data_parallel_group(with_context_parallel=True)
        self._trained = trained
        self._content = {"distrib_optim_sharding_type": kind, "dp_cp_group": group}
        self._strategy = fully_parallel.FullyParallelSaveStrategyWrapper(
            TorchDistSaveShardedStrategy("torch_dist", 1), group, do_cache_distribution=True
        )

    def save(self, folder: Path) -> tuple[float, float]:
        """Return the seconds until the state is gathered, and those until it is saved."""
        import torch
        from megatron.core import dist_checkpointing

        if torch.distributed.get_rank() == 0:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        torch.distributed.barrier()
        started = time.perf_counter()
        model = self._trained.pieces[0].sharded_state_dict(metadata=self._content)
        optimizer = self._trained.optimizer.sharded_state_dict(
            model, is_loading=False, metadata=self._content
        )
        gathered = time.perf_counter() - started
        state = {"model": model, "optimizer": optimizer}
        dist_checkpointing.save(state, str(folder), self._strategy, validate_access_integrity=False)
        torch.distributed.barrier()
        return gathered, time.perf_counter() - started


def main(words: list[str]) -> None:
    folder, rounds = words
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    measure(Path(folder), int(rounds), rank, world)


if __name__ == "__main__":
    main(sys.argv[1:])
