"""The trials of a selftest that look at nodes and GPUs, and no training.

``jobs.engine.device.session`` must begin before this module is imported, since it imports
megatron.core.
"""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path

import torch
import torch.distributed

from jobs.contract.job import node_name
from jobs.engine import device as devices
from jobs.engine.saving.shard_writer import HostMemory
from jobs.runtime import nsys
from jobs.selftest.comparisons import Measures, NotHere
from jobs.selftest.trainings import Bench

KERNEL_PACKAGES = {"transformer-engine": "transformer_engine.pytorch", "flash-attn": "flash_attn"}
"""Distributions of GPU kernels, and the module of each that loads them."""
CACHES = ("TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR")
COPY_BYTES = 1 << 30
NSYS_SECONDS = 120
RECORDED = """
import torch
square = torch.ones(256, 256, device="cuda")
torch.cuda.synchronize()
torch.cuda.cudart().cudaProfilerStart()
(square @ square).sum().item()
torch.cuda.cudart().cudaProfilerStop()
"""


def environment(bench: Bench) -> Measures:
    """Return what ranks have of GPUs, memory, caches and packages, behind trainings."""
    require_gpu(bench)
    properties = torch.cuda.get_device_properties(bench.device)
    segments = torch.cuda.memory_snapshot()  # type: ignore[no-untyped-call]
    own = {
        "gpu": (node_name(os.environ), str(properties.uuid)),
        "expandable": any(segment["is_expandable"] for segment in segments),
        "compiled": sum(map(files_below, {os.environ.get(name, "") for name in CACHES})),
        "packages": {name: state_of(name) for name in KERNEL_PACKAGES},
    }
    every: list[Measures] = [{} for _ in range(bench.world_size)]
    torch.distributed.all_gather_object(every, own)
    return {
        "gpus": len({rank["gpu"] for rank in every}),
        "expandable": sum(rank["expandable"] for rank in every),
        "compiled": min(rank["compiled"] for rank in every),
        "packages": every[0]["packages"],
    }


def require_gpu(bench: Bench) -> None:
    """Refuse CPU ranks.

    Raises:
        NotHere: they are.
    """
    if devices.is_cpu(bench.device):
        raise NotHere("it needs GPUs, and the device is cpu")


def files_below(folder: str) -> int:
    """Return the number of files in a folder; none without a folder."""
    return sum(path.is_file() for path in Path(folder).rglob("*")) if folder else 0


def state_of(distribution: str) -> str:
    """Return the version of a package, the error of loading it behind that, or nothing where it is
    not installed.
    """
    try:
        version = metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""
    try:
        importlib.import_module(KERNEL_PACKAGES[distribution])
    except Exception as error:  # of a library that was built for another torch or CUDA
        return f"{version}: {type(error).__name__}: {error}".splitlines()[0]
    return version


def copies(bench: Bench) -> Measures:
    """Copy to the memory that a save copies to, and to a tensor that is not page-locked."""
    require_gpu(bench)
    source = torch.ones(COPY_BYTES, dtype=torch.uint8, device=bench.device)
    memory = HostMemory(lambda: COPY_BYTES)
    memory.reserve(COPY_BYTES, COPY_BYTES)
    locked, plain = memory.place(0, source), torch.zeros(COPY_BYTES, dtype=torch.uint8)
    own = {
        "is_pinned": locked.is_pinned(),
        "pinned_gb_s": copy_gb_s(lambda: locked.copy_(source, non_blocking=True)),
        "plain_gb_s": copy_gb_s(lambda: plain.copy_(source)),
    }
    every: list[Measures] = [{} for _ in range(bench.world_size)]
    torch.distributed.all_gather_object(every, own)
    return {name: min(rank[name] for rank in every) for name in own}


def copy_gb_s(work: Callable[[], object]) -> float:
    """Return the speed of the faster of two copies."""
    times = []
    for _ in range(2):
        torch.cuda.synchronize()
        began = time.perf_counter()
        work()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return COPY_BYTES / min(times) / 1e9


def recorded_by_nsys(bench: Bench) -> Measures:
    """Record a range of a program by Nsight Systems, as a profile does, on rank 0's node."""
    require_gpu(bench)
    program = devices.decide_once(lambda: shutil.which(nsys.PROGRAM) or "")
    if not program:
        raise NotHere(f"{nsys.PROGRAM} is not on PATH of the first node")
    return devices.decide_once(partial(report, program, bench.folder / "nsys"))


def report(program: str, stem: Path) -> Measures:
    """Return the bytes of a report of nsys, and the last line that nsys printed."""
    words = [*nsys.command(program, stem), sys.executable, "-c", RECORDED]
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=NSYS_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return {"report_bytes": 0, "message": f"it did not end within {NSYS_SECONDS} s"}
    path = stem.with_name(stem.name + nsys.SUFFIX)
    lines = (done.stdout + done.stderr).strip().splitlines() or [""]
    size = path.stat().st_size if path.exists() else 0
    return {"report_bytes": size, "message": lines[-1]}
