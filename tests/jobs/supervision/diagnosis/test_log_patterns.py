"""Patterns of log lines, on lines as the programs print them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.contract.outcomes import RootCause
from jobs.health import xid
from jobs.health.xid import XidAction
from jobs.supervision.diagnosis import log_patterns
from jobs.supervision.diagnosis.evidence import LogSign
from jobs.supervision.ranks import launcher

from ....fork_server import ForkServer
from ....ranks import PATIENCE

JOIN = """
import datetime, os, signal, sys
import torch.distributed
def join(rank, port, seconds=60):
    method = f"tcp://127.0.0.1:{port}"
    wait = datetime.timedelta(seconds=seconds)
    torch.distributed.init_process_group("gloo", method, wait, 2, rank)
"""
"""The first lines of every rank of these tests."""

PEER = """
rank, port = map(int, sys.argv[1:])
join(rank, port)
ones = torch.ones(1)
torch.distributed.all_reduce(ones)
if rank == 1:
    os.kill(os.getpid(), signal.SIGKILL)
while True:
    torch.distributed.all_reduce(ones)
"""
ALONE = "join(0, int(sys.argv[2]), seconds=1)"
NOBODY = "join(1, int(sys.argv[2]), seconds=1)"
TAKEN = """
import socket
with socket.socket() as other:
    other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # or the reservation refuses it
    other.bind(("", int(sys.argv[2])))
    other.listen()
    join(0, int(sys.argv[2]))
"""

LINES = [
    ("xid", "[ 812.3] NVRM: Xid (PCI:0000:3b:00): 79, pid=1, GPU has fallen off the bus."),
    ("node_failure", "srun: error: Node failure on gpu02"),
    ("node_failure", "slurmstepd: error: *** STEP 7.0 ON gpu01 CANCELLED AT 2026-01-02T03:04:05 "
     "DUE TO NODE FAILURE, SEE SLURMCTLD LOG FOR DETAILS ***"),
    ("time_limit", "slurmstepd: error: *** JOB 7 ON gpu01 CANCELLED AT 2026-01-02T03:04:05 DUE TO "
     "TIME LIMIT ***"),
    ("preemption", "slurmstepd: error: *** JOB 7 ON gpu01 CANCELLED AT 2026-01-02T03:04:05 DUE TO "
     "PREEMPTION ***"),
    ("oom_kill", "slurmstepd: error: Detected 1 oom_kill event in StepId=7.0. Some of the step "
     "tasks have been OOM Killed."),
    ("oom_kill", "slurmstepd: error: Detected 1 oom-kill event(s) in StepId=7.0 cgroup."),
    ("oom_kill", "srun: error: gpu01: task 3: Out Of Memory"),
    ("cuda_oom", "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. If "
     "reserved but unallocated memory is large try setting PYTORCH_CUDA_ALLOC_CONF"),
    ("cuda_oom", "RuntimeError: CUDA error: out of memory"),
    ("cuda_error", "RuntimeError: CUDA error: an illegal memory access was encountered"),
    ("cuda_error", "RuntimeError: CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `x`"),
    ("nccl_timeout", "[Rank 3] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=9)"),
    ("nccl_remote", "ncclRemoteError: A call failed possibly due to a network error"),
    ("gloo_peer", "RuntimeError: [/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:534] "
     "Connection closed by peer [127.0.0.1]:27531"),
    ("gloo_timeout", "RuntimeError: [/pytorch/third_party/gloo/gloo/transport/tcp/"
     "unbound_buffer.cc:81] Timed out waiting 1800000ms for recv operation to complete"),
    ("store_lost", "torch.distributed.DistNetworkError: Failed to recv, got 0 bytes. Connection "
     "was likely closed. Did the remote server shutdown or crash?"),
    ("rendezvous", "torch.distributed.DistStoreError: Timed out after 601 seconds waiting for "
     "clients. 1/2 clients joined."),
    ("rendezvous", "torch.distributed.DistNetworkError: The client socket has timed out after "
     "600000ms while trying to connect to (gpu01, 29500)."),
    ("address_in_use", "torch.distributed.DistNetworkError: The server socket has failed to "
     "listen on any local network address. port: 29500, useIpv6: false, code: -98, name: "
     "EADDRINUSE, message: address already in use"),
    ("import_error", "ModuleNotFoundError: No module named 'megatron'"),
    ("disk_full", "OSError: [Errno 28] No space left on device"),
    ("quota", "OSError: [Errno 122] Disk quota exceeded"),
    ("io_error", "OSError: [Errno 5] Input/output error: '/scratch/x'"),
    ("stale_handle", "OSError: [Errno 116] Stale file handle"),
    ("read_only", "OSError: [Errno 30] Read-only file system: '/scratch/x'"),
    ("not_permitted", "PermissionError: [Errno 13] Permission denied: '/scratch/x'"),
    ("host_memory", "RuntimeError: [enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: "
     "can't allocate memory: you tried to allocate 9 bytes."),
    ("bus_error", "Fatal Python error: Bus error"),
    ("segfault", "Fatal Python error: Segmentation fault"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "line"), LINES)
def test_a_line_is_known_by_its_signature(name: str, line: str) -> None:
    sign = log_patterns.read_line(f"3: {line}")

    assert sign is not None
    assert (sign.name, sign.rank) == (name, 3)


def test_every_signature_has_a_line_that_shows_it() -> None:
    assert {name for name, _ in LINES} == set(log_patterns.CAUSES)


@pytest.mark.parametrize(
    "line",
    [
        "CUDA kernel errors might be asynchronously reported at some other API call.",
        "For debugging consider passing CUDA_LAUNCH_BLOCKING=1.",
        "Please try to free GPU memory to avoid CUDA out of memory",
        "If reserved memory is large, CUDA out of memory may be caused by fragmentation",
        "step 1200: loss 2.1, 3.4 s",
        "",
    ],
)
def test_advice_and_ordinary_lines_are_no_evidence(line: str) -> None:
    assert log_patterns.read_line(line) is None


def test_signs_come_in_order_once_a_rank_with_the_rank_of_the_label() -> None:
    log = [
        " 1: step 7",
        " 1: RuntimeError: CUDA error: device-side assert triggered\n",
        "10: Connection closed by peer [127.0.0.1]:1",
        " 1: RuntimeError: CUDA error: device-side assert triggered",
        "NVRM: Xid (PCI:0000:3b:00): 31, pid=77",
    ]

    assert log_patterns.find(log) == (
        LogSign("cuda_error", 1, None, "RuntimeError: CUDA error: device-side assert triggered"),
        LogSign("gloo_peer", 10, None, "Connection closed by peer [127.0.0.1]:1"),
        LogSign("xid", None, 31, "NVRM: Xid (PCI:0000:3b:00): 31, pid=77"),
    )


def test_a_log_of_local_ranks_has_no_labels() -> None:
    (sign,) = log_patterns.find(["12: No space left on device"], labelled=False)

    assert (sign.name, sign.rank) == ("disk_full", None)


def test_a_long_line_is_kept_in_part() -> None:
    (sign,) = log_patterns.find(["3: Segmentation fault " + "x" * 10_000])

    assert len(sign.line) == log_patterns.LINE_LIMIT


def test_symptoms_are_signatures_and_point_to_no_cause_of_their_own() -> None:
    causes = {log_patterns.CAUSES[name] for name in log_patterns.SYMPTOMS}

    assert causes == {RootCause.UNKNOWN, RootCause.HANG}


@pytest.mark.parametrize(
    ("number", "action"),
    [
        (13, XidAction.CONFIRM),
        (31, XidAction.CONFIRM),
        (43, XidAction.IGNORE),
        (45, XidAction.IGNORE),
        (48, XidAction.EXCLUDE),
        (63, XidAction.IGNORE),
        (64, XidAction.REPAIR),
        (68, XidAction.RETRY),
        (74, XidAction.EXCLUDE),
        (79, XidAction.REPAIR),
        (94, XidAction.CONFIRM),
        (95, XidAction.EXCLUDE),
        (119, XidAction.EXCLUDE),
        (149, XidAction.CONFIRM),
        (9999, XidAction.CONFIRM),
    ],
)
def test_an_xid_has_an_action_and_an_unknown_one_is_confirmed(
    number: int, action: XidAction
) -> None:
    assert xid.action(number) is action


def start(
    server: ForkServer, folder: Path, program: str, port: int, rank: int = 0
) -> Callable[[], set[str]]:
    """Start a rank that uses PyTorch for real; return what waits for it, and returns the names of
    the signatures in its output.
    """
    process = server.start(
        (str(rank), str(port)),
        env=os.environ,
        cwd=folder,
        stdout=folder / f"{rank}.log",
        code=JOIN + program,
    )

    def signs() -> set[str]:
        output, _ = process.communicate(timeout=PATIENCE)
        return {sign.name for sign in log_patterns.find(output.splitlines(), labelled=False)}

    return signs


@pytest.mark.engine
def test_a_rank_that_loses_another_prints_a_symptom_and_nothing_else(
    fork_server: ForkServer, tmp_path: Path
) -> None:
    with launcher.reserved_port() as port:
        survivor, victim = (start(fork_server, tmp_path, PEER, port, rank) for rank in (0, 1))

        assert victim() == set()
        assert survivor() == {"gloo_peer"}


@pytest.mark.engine
@pytest.mark.parametrize(
    ("program", "name"),
    [(ALONE, "rendezvous"), (NOBODY, "rendezvous"), (TAKEN, "address_in_use")],
)
def test_ranks_that_do_not_find_each_other_say_so(
    fork_server: ForkServer, tmp_path: Path, program: str, name: str
) -> None:
    with launcher.reserved_port() as port:
        assert start(fork_server, tmp_path, program, port)() == {name}
