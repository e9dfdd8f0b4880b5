"""Asynchronous saves: what they write, what a kill leaves, what an error leaves."""

from __future__ import annotations

import json
import pickle
import random
import re
import shutil
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from jobs.checkpoints import manifest, parts
from jobs.contract.metrics_log import KeptLine, SaveLine, SnapshotLine
from jobs.contract.rundir import RunDir
from jobs.conversion.sharded_reader import ShardedReader
from meditron_cli.plan.layout import BatchLayout
from meditron_cli.plan.memory import stages

from ..disks import mounted
from ..ranks import wait_until
from .conftest import Ranks

pytestmark = pytest.mark.engine

FOLLOWING = {"train_steps": 8, "save_interval": 4, "validation_interval": 0}

SAVE = """
import dataclasses, json, os, sys
from pathlib import Path
import torch
from jobs.checkpoints import manifest
from jobs.contract import specs
from jobs.engine import device

task = specs.task_from_json(json.load(sys.stdin))
spec, root = task.spec, Path(os.environ["PWD_OF_RUN"])
place = device.start("cpu", int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), 0)
from jobs.engine import model, optim, sharded_state
from jobs.engine.saving.saver import Saver, save

model.start_parallel(spec.parallel, spec.seed)
network = model.build(spec.model, spec.parallel, spec.precision, place)
optimizer = optim.prepare([network], spec).optimizer
trained = sharded_state.TrainingState([network], optimizer)
(part,) = optimizer.chained_optimizers
generator = torch.Generator().manual_seed(int(os.environ["RANK"]))
for state in part.optimizer.state.values():  # each rank's part differs, as after steps
    for name in ("exp_avg", "exp_avg_sq"):
        state[name].copy_(torch.rand(state[name].shape, generator=generator))
record = manifest.CheckpointRecord(
    iteration=1, consumed_samples=4, kind=manifest.TRAINING,
    **manifest.identity(spec.model, spec.tokenizer),
    origin={}, layout=dataclasses.asdict(spec.parallel), precision=spec.precision, data={}, bytes=0,
)

# As megatron.core itself returns the state: gathered to whole parameters. What tensor ranks have in
# common differs here, and the first is saved.
content = sharded_state._content()
whole = trained.optimizer.sharded_state_dict(
    sharded_state._model_state([network], content), is_loading=False, metadata=content
)
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedTensor, apply_factories
apply_factories(whole)
gathered = [  # without the distributed optimizer, it has another name for master weights
    (item.key.replace(".fp32_param.", ".param."), item.global_slice(), item.data.clone())
    for item in nested_values(whole)
    if isinstance(item, ShardedTensor) and not any(item.replica_id[:-1])
]

save(root / "synchronous", trained, record, 9)
copied, savers = [], []
LIMITS = {"asynchronous": 1 << 40, "in turns": 10_000, "half": 200_000}
for name, limit in LIMITS.items():
    saver = Saver(root / name, trained, 9, (), lambda: limit)
    savers.append(saver)
    before = [value.clone() for value in network.parameters()]
    saver.begin(record)
    saver.wait_for_copy()
    with torch.no_grad():  # as the next step does, while threads write
        for value in network.parameters():
            value.fill_(7.0)
    saver.finish()
    copied.append(saver._writer._memory.bytes)
    with torch.no_grad():
        for value, was in zip(network.parameters(), before):
            value.copy_(was)

later = dataclasses.replace(record, iteration=2)
with torch.no_grad():
    for state in part.optimizer.state.values():
        state["exp_avg"].mul_(2)
save(root / "synchronous", trained, later, 9)  # plans anew; the others have a plan
for saver in savers:
    saver.begin(later)
    saver.finish()
with torch.no_grad():
    for state in part.optimizer.state.values():
        state["exp_avg"].div_(2)

import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.filesystem import FileSystemReader
stored = FileSystemReader(root / "synchronous" / "iter_0000001")
state = {
    key: torch.full(value.size, float("nan"), dtype=value.properties.dtype)
    for key, value in stored.read_metadata().state_dict_metadata.items()
    if key.startswith("optimizer.state.")
}
dcp.load(state, storage_reader=stored, no_dist=True)
for key, place, data in gathered:
    assert torch.equal(state[key][place], data), key
assert {key for key, *_ in gathered} <= set(state)
print(json.dumps({"keys": sorted(state), "copied": copied}))
device.end()
"""
"""Save a random state in both ways, and compare it with the one that megatron.core gathers."""


NAMED = {".metadata", manifest.MANIFEST, manifest.RECORD}
"""Files that name their folder, or hold the digest of one that does."""


def index(folder: Path) -> tuple[Any, Any]:
    """Return the tensors and their places in ``.metadata``, which we have written ourselves."""
    metadata = pickle.loads((folder / ".metadata").read_bytes())
    return metadata.state_dict_metadata, metadata.storage_data


@pytest.mark.parametrize(
    ("sizes", "options", "precision"),
    [
        pytest.param({"tensor": 2, "data": 2}, {}, "bf16", id="tensor-data"),
        pytest.param({"data": 3}, {}, "fp32", id="data", marks=pytest.mark.full),
        pytest.param(
            {"pipeline": 2, "data": 2}, {}, "bf16", id="pipeline-data", marks=pytest.mark.full
        ),
        pytest.param(
            {"tensor": 2},
            {"distributed_optimizer": False},
            "bf16",
            id="whole",
            marks=pytest.mark.full,
        ),
    ],
)
def test_all_ways_to_save_write_the_same_bytes_and_the_state_that_a_gather_has(
    make_run, layout, fork_server, monkeypatch, sizes, options, precision
):
    values = {} if "data" not in sizes else {"micro_batch_size": 1, "global_batch_size": 6}
    run = make_run(parallel=layout(**sizes, **options), precision=precision, **values)
    task = run.files.spec("pretrain", 0).read_text()
    monkeypatch.setenv("PWD_OF_RUN", str(run.root))

    printed = fork_server.run_ranks(SAVE, run.root, run.spec.parallel.world_size, stdin=task)

    found = [json.loads(text.splitlines()[-1]) for text in printed]
    keys, copied = found[0]["keys"], [each["copied"][0] for each in found]
    assert "optimizer.state.exp_avg.decoder.layers.mlp.linear_fc1.weight" in keys
    for step in (1, 2):
        folders = [
            run.root / name / manifest.name(step)
            for name in ("synchronous", "asynchronous", "in turns", "half")
        ]
        names = {path.name for path in folders[0].iterdir()} - NAMED
        assert len(names) >= 2 * run.spec.parallel.world_size
        for other in folders[1:]:
            assert {path.name for path in other.iterdir()} - NAMED == names
            for name in names:
                assert (other / name).read_bytes() == (folders[0] / name).read_bytes(), name
            assert index(other) == index(folders[0])
        for folder in folders:
            assert parts.alteration(folder, manifest.manifest(folder)) == ""

    spec = run.spec
    batch = BatchLayout(spec.micro_batch_size, spec.global_batch_size, spec.parallel.data)
    planned = [stage.save for stage in stages(spec.model, spec.parallel, batch, precision, "cpu")]
    assert max(copied) == pytest.approx(max(planned), rel=0.15)  # whole tensors are shared out
    assert sum(copied) == pytest.approx(spec.model.checkpoint_bytes(precision), rel=0.02)
    for _, largest, half in (each["copied"] for each in found):
        assert half == max(largest, 200_000) < min(copied)


RESHARD = """
import dataclasses, json, os, sys
from pathlib import Path
import torch
from jobs.checkpoints import manifest
from jobs.contract import specs
from jobs.engine import device

spec = specs.task_from_json(json.load(sys.stdin)).spec
place = device.start("cpu", int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), 0)
from jobs.engine import checkpoint, model, optim, sharded_state
from jobs.engine.saving.saver import save

model.start_parallel(spec.parallel, spec.seed)
network = model.build(spec.model, spec.parallel, spec.precision, place)
optimizer = optim.prepare([network], spec).optimizer
trained = sharded_state.TrainingState([network], optimizer)
(part,) = optimizer.chained_optimizers
layout = dataclasses.asdict(spec.parallel)
if os.environ["FROM"]:
    torch.nn.init.zeros_(next(network.parameters()))
    folder = Path(os.environ["FROM"])
    assert checkpoint.load_newest(folder, trained, layout, 1, lambda *_: None, lambda: None)
    assert {float(state["step"]) for state in part.optimizer.state.values()} == {3.0}
else:
    for main, state in part.optimizer.state.items():
        main.data.add_(torch.rand(main.shape), alpha=1e-4)  # more digits than weights in bf16 have
        for name in ("exp_avg", "exp_avg_sq"):
            state[name].copy_(torch.rand(state[name].shape))
        state["step"].fill_(3.0)
record = manifest.CheckpointRecord(
    iteration=1, consumed_samples=4, kind=manifest.TRAINING,
    **manifest.identity(spec.model, spec.tokenizer),
    origin={}, layout=layout, precision=spec.precision, data={}, bytes=0,
)
save(Path(os.environ["TO"]), trained, record, 9)
device.end()
"""
"""Load a state, or make one, and save it in another layout."""

WHOLE, DISTRIBUTED = False, True


@pytest.mark.parametrize(
    ("layouts", "precision"),
    [
        pytest.param(
            [({}, WHOLE), ({"data": 2}, DISTRIBUTED), ({"tensor": 2}, WHOLE)], "bf16", id="few"
        ),
        pytest.param(
            [
                ({"tensor": 2}, WHOLE),
                ({"pipeline": 2, "data": 2}, DISTRIBUTED),
                ({"data": 2}, WHOLE),
                ({"tensor": 2, "data": 2}, DISTRIBUTED),
                ({"pipeline": 2}, WHOLE),
                ({"data": 3}, DISTRIBUTED),
                ({"tensor": 2, "pipeline": 2}, WHOLE),
                ({}, DISTRIBUTED),
                ({}, WHOLE),
            ],
            "bf16",
            id="many",
            marks=pytest.mark.full,
        ),
        pytest.param(
            [({}, DISTRIBUTED), ({"tensor": 2}, WHOLE), ({"data": 2}, DISTRIBUTED)],
            "fp32",
            id="fp32",
            marks=pytest.mark.full,
        ),
    ],
)
def test_a_state_goes_through_every_layout_and_both_optimizers_unchanged(
    make_run, layout, fork_server, monkeypatch, layouts, precision
):
    folders: list[Path] = []
    for number, (sizes, distributed) in enumerate(layouts):
        run = make_run(
            str(number),
            parallel=layout(**sizes, distributed_optimizer=distributed),
            precision=precision,
            micro_batch_size=1,
            global_batch_size=6,
        )
        monkeypatch.setenv("FROM", str(folders[-1].parent) if folders else "")
        monkeypatch.setenv("TO", str(run.root / "checkpoints"))
        task = run.files.spec("pretrain", 0).read_text()
        fork_server.run_ranks(RESHARD, run.root, run.spec.parallel.world_size, stdin=task)
        folders.append(run.root / "checkpoints" / "iter_0000001")

    first, *others = (ShardedReader(folder) for folder in folders)
    assert sum(key.startswith("optimizer.state.param.") for key in first.tensors) > 5
    for other in others:
        assert other.tensors == first.tensors
        for key in first.tensors:
            assert torch.equal(other.read(key), first.read(key)), key


LATE = """
import sys, threading
from jobs.__main__ import main
from jobs.engine.saving.shard_writer import ShardWriter

init, stage, wait = ShardWriter.__init__, ShardWriter._stage, ShardWriter.wait_for_copy

def begin(writer, *arguments):
    init(writer, *arguments)
    writer.awaited = threading.Event()

def stage_late(writer, *arguments):
    writer.awaited.wait()
    stage(writer, *arguments)

def wait_for_copy(writer):
    writer.awaited.set()
    wait(writer)

ShardWriter.__init__, ShardWriter._stage = begin, stage_late
ShardWriter.wait_for_copy = wait_for_copy
sys.exit(main())
"""
"""Training whose copies are as late as they may be: none begins before training waits for it."""


@pytest.mark.parametrize(
    "sizes",
    [{"data": 2}, pytest.param({"tensor": 2, "data": 2}, marks=pytest.mark.full)],
    ids=str,
)
def test_resumed_from_an_asynchronous_save_equals_uninterrupted_bit_for_bit(
    make_run, layout, sizes
):
    values = {**FOLLOWING, "parallel": layout(**sizes)}
    whole, parted = make_run("whole", **values, async_save=False), make_run("parted", **values)
    whole.finish()
    parted.finish(code=LATE)
    shutil.rmtree(parted.root / "checkpoints/iter_0000008")

    parted.finish()

    assert parted.trained(2) == [5, 6, 7, 8]
    assert parted.losses() == whole.losses()
    for name in ("iter_0000004", "iter_0000008"):
        folders = [run.root / "checkpoints" / name for run in (whole, parted)]
        files = [manifest.manifest(folder) for folder in folders]
        for file in files[0].keys() - NAMED:
            assert files[0][file] == files[1][file], file
        assert index(folders[0]) == index(folders[1])


def test_the_metrics_have_the_copy_and_the_commit_of_each_save(make_run):
    run = make_run(**FOLLOWING)
    run.finish()

    lines = [line for line in run.lines() if isinstance(line, SnapshotLine | SaveLine)]

    assert [(line.kind, line.step) for line in lines] == [
        (kind, step) for step in (0, 4, 8) for kind in ("snapshot", "save")
    ]
    saves = [line for line in lines if isinstance(line, SaveLine)]
    for snapshot, save in zip(lines[::2], saves, strict=True):
        assert 0 < snapshot.seconds + save.seconds <= save.written


KEEPING = {**FOLLOWING, "keep_steps": (3, 4), "keep_weights_only": True}


@pytest.mark.parametrize(
    "asynchronous", [True, pytest.param(False, marks=pytest.mark.full)], ids=("async", "sync")
)
def test_weights_to_keep_are_those_of_the_checkpoint_and_no_training_resumes_from_them(
    make_run, layout, asynchronous
):
    values = {**KEEPING, "parallel": layout(data=2), "precision": "bf16"}
    run = make_run(**values, async_save=asynchronous)
    run.finish()
    checkpoints, kept = run.root / "checkpoints", run.root / "checkpoints/kept"

    assert sorted(path.name for path in kept.iterdir()) == ["iter_0000003", "iter_0000004"]
    assert manifest.saved_steps(checkpoints) == {0, 3, 4, 8}
    own, whole = (ShardedReader(folder / "iter_0000004") for folder in (kept, checkpoints))
    assert own.tensors.keys() == {key for key in whole.tensors if not key.startswith("optimizer.")}
    assert all(torch.equal(own.read(key), whole.read(key)) for key in own.tensors)
    path, record = manifest.at_step(checkpoints, 4)
    assert (path.parent, record.kind, record.iteration) == (kept, manifest.WEIGHTS, 4)
    assert record.bytes < manifest.read(checkpoints / "iter_0000004").bytes / 4
    assert parts.alteration(path, manifest.manifest(path)) == ""

    shutil.rmtree(checkpoints / "iter_0000008")
    shutil.rmtree(kept / "iter_0000004")  # as after a kill while it was written
    run.finish()

    assert run.trained(2) == [5, 6, 7, 8]
    assert (kept / "iter_0000004" / manifest.RECORD).exists()


def test_whole_checkpoints_stay_kept_where_weights_alone_are_kept_from_then_on(make_run):
    run = make_run(
        **{**FOLLOWING, "save_interval": 1, "keep_checkpoints": 1, "keep_steps": (2, 6)},
    )
    run.change(train_steps=4)
    run.finish()
    run.change(train_steps=8, keep_weights_only=True)
    run.finish()

    whole, kept = (
        {manifest.step_of(path) for path in manifest.folders(folder)}
        for folder in (run.root / "checkpoints", run.root / "checkpoints/kept")
    )
    assert (whole, kept) == ({0, 2, 4, 7, 8}, {6})  # 4 was verified in the second start


def test_the_metrics_have_weights_that_are_kept_and_no_save_to_resume_from(make_run):
    run = make_run(**KEEPING)
    run.finish()

    lines = [line for line in run.lines() if isinstance(line, KeptLine | SaveLine)]

    assert [(line.kind, line.step) for line in lines] == [
        ("save", 0), ("kept", 3), ("kept", 4), ("save", 4), ("save", 8)
    ]  # fmt: skip


def committed(run: RunDir) -> int:
    """Return the newest step whose checkpoint is finished."""
    return max(manifest.saved_steps(run.path("checkpoints")), default=-1)


def unfinished(run: RunDir) -> bool:
    """Return whether the newest folder of a checkpoint after step 0 has no record yet."""
    newest = next(iter(manifest.folders(run.path("checkpoints"))), None)
    return (
        newest is not None
        and manifest.step_of(newest) > 0
        and not (newest / manifest.RECORD).exists()
    )


def reached(run: RunDir) -> str:
    """Return how far the newest save has come."""
    names = {path.name for path in next(iter(manifest.folders(run.path("checkpoints")))).iterdir()}
    if manifest.MANIFEST in names:
        return "manifest"
    return "index" if ".metadata" in names else "shards" if names else "folder"


def stand_still(ranks: Ranks) -> bool:
    """Return whether every thread of the ranks is stopped: one that waits for a disk finishes that
    first.
    """
    tasks = [Path(f"/proc/{process.pid}/task") for process in ranks.processes]
    try:
        lines = [path.read_text() for task in tasks for path in task.glob("*/stat")]
    except OSError:  # a thread has ended meanwhile
        return False
    return all(line.rpartition(")")[2].split()[0] == "T" for line in lines)


@pytest.mark.parametrize(
    ("kills", "sizes"),
    [
        pytest.param(3, {"data": 2}, id="3"),
        pytest.param(50, {}, id="50", marks=pytest.mark.full),
        pytest.param(50, {"data": 2}, id="50-data", marks=pytest.mark.full),
        pytest.param(50, {"tensor": 2}, id="50-tensor", marks=pytest.mark.full),
    ],
)
def test_killed_while_a_save_is_written_nothing_is_lost_beyond_the_last_commit(
    make_run, layout, kills, sizes
):
    steps = 20 * kills
    values = {
        "train_steps": 100_000,  # more than a rank makes before it is hit
        "decay_steps": steps,
        "save_interval": 1,
        "validation_interval": 0,
        "parallel": layout(**sizes),
    }
    whole = make_run("whole", **{**values, "save_interval": 1000, "train_steps": steps})
    whole.finish()
    killed = make_run("killed", **values)
    source, hit = random.Random(kills), Counter[str]()

    for number in range(1, kills + 1):
        before = committed(killed.files)
        ranks = killed.start()
        wait_until(lambda before=before: committed(killed.files) > before)
        stopped = False
        while not stopped:  # until all ranks stand still in the middle of a save
            time.sleep(source.uniform(0, 0.02))
            ranks.signal(signal.SIGSTOP)
            wait_until(lambda ranks=ranks: stand_still(ranks))
            stopped = unfinished(killed.files)
            if not stopped:
                ranks.signal(signal.SIGCONT)
        last = committed(killed.files)
        hit[reached(killed.files)] += 1
        ranks.signal(signal.SIGKILL)
        ranks.wait()

        path, record = manifest.find_latest(killed.root / "checkpoints")
        assert record.iteration == last
        assert parts.alteration(path, manifest.manifest(path)) == ""
        if number > 1:
            assert killed.trained(number)[0] == before + 1
    print(f"\n{kills} kills in a save, by what it had written last: {dict(hit)}")
    killed.change(train_steps=max(steps, last + 1))
    killed.finish()

    assert killed.trained(kills + 1)[0] == last + 1
    figures = {line.step: (line.loss, line.grad_norm, line.samples) for line in whole.steps()}
    trained = [line for line in killed.steps() if line.step in figures]
    assert {line.step for line in trained} == set(figures)
    for line in trained:  # repeated steps too
        assert (line.loss, line.grad_norm, line.samples) == figures[line.step]


FULL_DISK = """
import os, signal, sys
from pathlib import Path
from jobs.__main__ import main
from jobs.engine.saving.shard_writer import ShardFile
from tests.disks import fill

write = ShardFile._run

def write_on_a_full_disk(file):
    folder = file.path.parent
    if folder.name == "iter_0000006":
        fill(folder.parents[1])
    write(file)
    if file.error is not None:
        Path(f"error-{os.environ['RANK']}").write_text(str(file.error))
        os.kill(os.getpid(), signal.SIGKILL)

ShardFile._run = write_on_a_full_disk
sys.exit(main())
"""
"""Training whose disk is full once its third save writes, and whose ranks are killed then."""


@pytest.mark.full
def test_killed_while_a_save_meets_a_full_disk_nothing_is_lost_beyond_the_last_commit(
    make_run, layout, tmp_path
):
    values = {"train_steps": 10, "save_interval": 2, "parallel": layout(data=2)}
    whole = make_run("whole", **values)
    whole.finish()
    with mounted(tmp_path / "disk", "32m") as disk:
        checkpoints = disk / "checkpoints"
        killed = make_run("killed", **values, checkpoint_dir=str(checkpoints))

        ranks = killed.start(code=FULL_DISK)
        assert ranks.wait() == [-signal.SIGKILL] * 2, ranks.output()
        assert "No space left on device" in (killed.root / "error-0").read_text()
        assert not manifest.problem(checkpoints / "iter_0000004")
        assert manifest.problem(checkpoints / "iter_0000006")
        ranks = killed.start()
        assert ranks.wait() == [1, 1], ranks.output()
        assert re.fullmatch(
            f"{re.escape(str(checkpoints))}/.*: No space left on device",
            killed.rank_exit()["message"],
        )
        path, record = manifest.find_latest(checkpoints)
        assert (record.iteration, parts.alteration(path, manifest.manifest(path))) == (4, "")
        (disk / "ballast").unlink()
        killed.finish()

        assert (killed.trained(2), killed.trained(3)) == ([], list(range(5, 11)))
        figures = {line.step: (line.loss, line.grad_norm) for line in whole.steps()}
        assert {line.step for line in killed.steps()} == set(figures)
        for line in killed.steps():
            assert (line.loss, line.grad_norm) == figures[line.step]
        assert not manifest.problem(checkpoints / "iter_0000010")
