"""Asynchronous saves beside synchronous ones of the same ranks, taking turns.

A synchronous save blocks training from its beginning to its commit; an asynchronous one while the
state is copied to host memory, and while ranks agree that all is written and committed. The ranks
wait idle while threads write, as they would for a GPU.

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
    blocked = [sum(pair) for pair in zip(seconds["copy"], seconds["commit"], strict=True)]
    ratios = {name: ratio(blocked, seconds[name]) for name in SYNCHRONOUS}
    beside = ", ".join(f"{ratios[name]:.3f} of {name} ({median[name]:.2f} s)" for name in ratios)
    note = (
        f"{median['copy']:.3f} s to copy and {median['commit']:.3f} s to agree: {beside}, of which "
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
    savers = {
        "synchronous": Saver(folder / "synchronous", trained, 0),
        "asynchronous": Saver(folder / "asynchronous", trained, 0, (), lambda: 1 << 40),
    }
    seconds: dict[str, list[float]] = {name: [] for name in (*SYNCHRONOUS, "gather")}
    seconds |= {"copy": [], "commit": []}
    megatron = {name: MegatronSaves(trained, name) for name in MEGATRON}
    for number in range(rounds + 1):
        found: dict[str, float] = {}
        record = dataclasses.replace(
            _starts.record(spec, dataclasses.asdict(layout)), iteration=number + 1
        )
        found["synchronous"], size = save_and_wait(savers["synchronous"], record)
        found["copy"], found["commit"] = save_beside(savers["asynchronous"], record)
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


def save_beside(saver: Any, record: Any) -> tuple[float, float]:
    """Save while the ranks wait idle; return the seconds until all is copied, and those in which
    they agree.
    """
    import torch

    torch.distributed.barrier()
    started = time.perf_counter()
    saver.begin(record)
    copied, rest, stored = time.perf_counter() - started, 0.0, None
    while stored is None:
        while not saver.is_ready():
            time.sleep(POLL_SECONDS)
        torch.distributed.barrier()
        ready = time.perf_counter()
        stored = saver.advance()
        rest += time.perf_counter() - ready
    return copied, rest


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
