"""Starts of training from a checkpoint, in several layouts, beside the way before: a pass that
verifies every file, then every rank reads all that it needs. Both take turns in the same ranks.

The bytes of a start are counted in the reader; ``/proc/self/io`` counts also what ranks receive
from each other. The way before exchanges no data, and its bytes are those of ``/proc/self/io``.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jobs.checkpoints import manifest, parts
from jobs.contract import rundir, specs
from jobs.contract.files import read_json, write_json
from jobs.contract.stage_specs import ParallelSpec, PretrainSpec
from meditron_cli.config.load import load
from meditron_cli.runs.prepare import plan_of
from tests.bench import REPOSITORY, Figure, environment

LAYOUTS = ((1, 1), (1, 2), (1, 4), (2, 1))
"""Tensor and data-parallel ranks; the checkpoint is saved by one rank."""

SETTINGS = {
    "model.layers": 6,
    "model.hidden_size": 512,
    "model.ffn_hidden_size": 1408,
    "model.attention_heads": 8,
    "model.kv_heads": 8,
    "pretrain.precision": "bf16",
}
"""24 M parameters: 0.3 GB with an optimizer."""

CACHED = "files in memory, where reading costs nothing and an exchange among ranks does"


def figures(folder: Path, rounds: int, layouts: Sequence[tuple[int, int]]) -> list[Figure]:
    """Measure in a folder, which has room for the checkpoint, with ranks of these layouts."""
    folder.mkdir()
    run = rundir.RunDir(folder)
    overrides = [f"{key}={value}" for key, value in SETTINGS.items()]
    plan = plan_of(load("local", "tiny", None, overrides), ("pretrain",))
    write_json(run.spec("pretrain", 0), specs.to_json(plan.stages[0].tasks[0]))
    start(folder, 1, 1, 0)
    found = [start(folder, tensor, data, rounds) for tensor, data in layouts]
    size = found[0]["size"]
    worst = max(item["bytes"] for item in found) / size
    notes = "; ".join(
        f"tensor {item['tensor']} data {item['data']}: {item['bytes'] / size:.2f} in "
        f"{item['seconds']:.1f} s, before {item['bytes_before'] / size:.2f} in "
        f"{item['seconds_before']:.1f} s"
        for item in found
    )
    many = next(item for item in found if item["data"] == max(data for _, data in layouts))
    speedup = many["seconds"] / many["seconds_before"]
    return [
        Figure("start_read_over_checkpoint", worst, "≤ 1.1", notes),
        Figure("start_over_start_before", speedup, "", f"data {many['data']}, {CACHED}"),
    ]


def start(folder: Path, tensor: int, data: int, rounds: int) -> dict[str, Any]:
    """Start ranks that load the checkpoint; return what they measured. Without rounds, save it."""
    words = (str(folder), str(tensor), str(rounds))
    return run_ranks(tensor * data, "tests.bench._starts", *words)


def run_ranks(world: int, module: str, *words: str) -> dict[str, Any]:
    """Run a module as ranks; return what rank 0 printed last, with the bytes of a verified load.

    Raises:
        RuntimeError: a rank failed.
    """
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        port = door.getsockname()[1]
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", module, *words],
            cwd=REPOSITORY,
            env=environment(
                PYTHONWARNINGS="ignore",
                OMP_NUM_THREADS="1",
                RANK=str(rank),
                WORLD_SIZE=str(world),
                MASTER_ADDR="127.0.0.1",
                MASTER_PORT=str(port),
            ),
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    output, *_ = [rank.communicate()[0] for rank in ranks]
    if any(rank.returncode for rank in ranks):
        raise RuntimeError(output)
    result: dict[str, Any] = json.loads(output.splitlines()[-1])
    if said := re.search(r"loaded and verified: (\d+) bytes read", output):
        result["bytes"] = int(said[1])
    return result


def measure(folder: Path, tensor: int, rounds: int, rank: int, world: int) -> None:
    """Load as one of the ranks; rank 0 prints the figures."""
    from jobs.engine import device

    place = device.start("cpu", rank, world, 0)
    import torch
    from megatron.core import dist_checkpointing

    from jobs.engine import checkpoint, model, optim, sharded_state
    from jobs.engine.saving import saver

    task = specs.task_from_json(read_json(rundir.RunDir(folder).spec("pretrain", 0)))
    assert isinstance(task.spec, PretrainSpec)
    layout = ParallelSpec(tensor, 1, world // tensor, tensor > 1, True, "none")
    spec = dataclasses.replace(task.spec, parallel=layout)
    model.start_parallel(layout, spec.seed)
    network = model.build(spec.model, layout, spec.precision, place)
    trained = sharded_state.TrainingState([network], optim.prepare([network], spec).optimizer)
    checkpoints = folder / "checkpoints"
    fields = dataclasses.asdict(layout)
    if not rounds:
        saver.save(checkpoints, trained, record(spec, fields), 1)
        print("{}")
        return
    path = checkpoints / manifest.name(1)
    size = manifest.read(path).bytes

    def before() -> None:
        files = manifest.manifest(path)
        assert not parts.alteration(
            path, {name: files[name] for name in sorted(files)[rank::world]}
        )
        torch.distributed.barrier()
        state = sharded_state.state_to_load(trained, with_generators=False)
        dist_checkpointing.load(state, str(path), strict="raise_unexpected")

    def now() -> None:
        checkpoint.load_newest(checkpoints, trained, fields, 1, lambda *_: None, lambda: None)

    times: dict[str, list[float]] = {"before": [], "now": []}
    received = []
    for _ in range(rounds):
        for name, way in (("before", before), ("now", now)):
            torch.distributed.barrier()
            started, count = time.perf_counter(), bytes_read()
            way()
            torch.distributed.barrier()
            times[name].append(time.perf_counter() - started)
            if name == "before":
                received.append(bytes_read() - count)
    total = torch.tensor(received[-1])
    torch.distributed.all_reduce(total)
    result = {
        "tensor": tensor,
        "data": layout.data,
        "size": size,
        "bytes_before": int(total),
        "seconds_before": statistics.median(times["before"]),
        "seconds": statistics.median(times["now"]),
    }
    if rank == 0:
        print(json.dumps(result))
    device.end()


def record(spec: PretrainSpec, layout: dict[str, Any]) -> manifest.CheckpointRecord:
    return manifest.CheckpointRecord(
        iteration=1,
        consumed_samples=0,
        kind=manifest.TRAINING,
        **manifest.identity(spec.model, spec.tokenizer),
        origin={"weights": manifest.RANDOM},
        layout=layout,
        precision=spec.precision,
        data={},
        bytes=0,
    )


def bytes_read() -> int:
    """Return the bytes that this process has read by system calls."""
    found = re.search(r"rchar: (\d+)", Path("/proc/self/io").read_text())
    assert found
    return int(found[1])


def main(words: Sequence[str]) -> None:
    folder, tensor, rounds = words
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    measure(Path(folder), int(tensor), int(rounds), rank, world)


if __name__ == "__main__":
    main(sys.argv[1:])
