"""Signatures of failures in rank logs, as regular expressions.

A match is evidence with a rank and an order, not a diagnosis:
``jobs.supervision.diagnosis.root_cause`` weighs it. Programs also print advice that names errors
which did not occur; such sentences are removed first.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from jobs.contract.outcomes import RootCause
from jobs.supervision.diagnosis.evidence import LogSign

LINE_LIMIT = 300
"""Characters of a matching line that are kept."""

LABEL = re.compile(r"^\s*(\d+): ")
"""The prefix of each line by ``srun --label``."""

SENTENCE = re.compile(r"(?<=[.!?;])\s+")
ADVICE = re.compile(
    r"might be|may be caused|could be caused|consider|please try|try setting|for debugging|"
    r"to avoid|if reserved",
    re.IGNORECASE,
)
"""Phrases of sentences that advise on an error or guess its cause."""

SIGNATURES: tuple[tuple[str, str, RootCause], ...] = (
    # name, pattern of a line, root cause; the first match names the line
    ("xid", r"NVRM: Xid \([^)]*\): (?P<number>\d+)", RootCause.GPU_HARDWARE),
    ("node_failure", r"Node failure on \S+|DUE TO NODE FAILURE", RootCause.NODE_FAIL),
    ("time_limit", r"CANCELLED AT \S+ DUE TO TIME LIMIT", RootCause.TIME_LIMIT),
    ("preemption", r"CANCELLED AT \S+ DUE TO PREEMPTION", RootCause.PREEMPTED),
    (
        "oom_kill",
        r"[Dd]etected \d+ oom[_-]kill event|Out Of Memory$|\boom-kill:",
        RootCause.HOST_OOM,
    ),
    (
        "cuda_oom",
        r"CUDA out of memory|CUDA error: out of memory|CUBLAS_STATUS_ALLOC_FAILED",
        RootCause.CUDA_OOM,
    ),
    (
        "nccl_timeout",
        r"caught collective operation timeout|collective operation timed out|"
        r"Some NCCL operations have failed or timed out",
        RootCause.HANG,
    ),
    (
        "nccl_remote",
        r"ncclRemoteError|remote process exited or there was a network error",
        RootCause.UNKNOWN,
    ),
    ("gloo_timeout", r"gloo.*Timed out|Timed out waiting \d+ ?ms for", RootCause.HANG),
    (
        "gloo_peer",
        r"Connection closed by peer|Connection reset by peer|gloo.*(?:Broken pipe|writev)",
        RootCause.UNKNOWN,
    ),
    (
        "rendezvous",
        r"waiting for clients\. \d+/\d+ clients joined|while trying to connect to|"
        r"Connection refused",
        RootCause.LAUNCH,
    ),
    ("store_lost", r"Did the remote server shutdown or crash", RootCause.UNKNOWN),
    ("address_in_use", r"EADDRINUSE|[Aa]ddress already in use", RootCause.LAUNCH),
    ("import_error", r"\b(?:ModuleNotFoundError|ImportError): ", RootCause.LAUNCH),
    (
        "cuda_error",
        r"CUDA error: |CUDA driver error: |CUBLAS_STATUS_[A-Z]|CUDNN_STATUS_(?!SUCCESS)[A-Z]|"
        r"[Uu]nhandled cuda error|device-side assert",
        RootCause.CUDA_ERROR,
    ),
    ("disk_full", r"No space left on device|ENOSPC", RootCause.STORAGE),
    ("quota", r"[Dd]isk quota exceeded|EDQUOT", RootCause.STORAGE),
    ("stale_handle", r"Stale (?:NFS )?file handle|ESTALE", RootCause.STORAGE),
    ("io_error", r"Input/output error|\bEIO\b", RootCause.STORAGE),
    ("read_only", r"Read-only file system|EROFS", RootCause.STORAGE),
    # As Python prints it of a file: a folder made immutable, a file server that lost its keytab.
    ("not_permitted", r"\[Errno (?:1|13)\] |EACCES|EPERM", RootCause.STORAGE),
    (
        "host_memory",
        r"DefaultCPUAllocator: can't allocate memory|Cannot allocate memory|\bMemoryError\b",
        RootCause.HOST_OOM,
    ),
    ("bus_error", r"\bBus error\b|\bSIGBUS\b", RootCause.CRASH),
    ("segfault", r"[Ss]egmentation fault|\bSIGSEGV\b", RootCause.CRASH),
)
"""Texts are those of Slurm 22.05, PyTorch 2, NCCL and gloo as their sources print them; the CUDA,
NCCL and NVRM ones are unproven on hardware.
"""

CAUSES = {name: cause for name, _, cause in SIGNATURES}

SYMPTOMS = frozenset({"nccl_timeout", "nccl_remote", "gloo_timeout", "gloo_peer", "store_lost"})
"""Messages of ranks about another one that is gone or stuck, which has the cause."""

_PATTERNS = tuple((name, re.compile(pattern)) for name, pattern, _ in SIGNATURES)


def find(lines: Iterable[str], labelled: bool = True) -> tuple[LogSign, ...]:
    """Return the signatures in a log, in order, each once per rank.

    Args:
        lines: of a rank log; line ends do not matter.
        labelled: srun put the rank before each line.
    """
    signs: dict[tuple[str, int | None, int | None], LogSign] = {}
    for line in lines:
        sign = read_line(line, labelled)
        if sign is not None:
            signs.setdefault((sign.name, sign.rank, sign.number), sign)
    return tuple(signs.values())


def read_line(line: str, labelled: bool = True) -> LogSign | None:
    """Return the signature of one line; None without one."""
    label = LABEL.match(line) if labelled else None
    text = line[label.end() :] if label else line
    match = search(text)
    if match is None:
        return None
    name, number = match
    rank = int(label[1]) if label else None
    return LogSign(name, rank, number, " ".join(text.split())[:LINE_LIMIT])


def search(text: str) -> tuple[str, int | None] | None:
    """Return the name and number of the first signature that matches a text without its advice."""
    report = without_advice(text)
    for name, pattern in _PATTERNS:
        match = pattern.search(report)
        if match is not None:
            number = match.groupdict().get("number")
            return name, None if number is None else int(number)
    return None


def without_advice(text: str) -> str:
    """Return a text without the sentences that only advise."""
    return " ".join(part for part in SENTENCE.split(text.strip()) if not ADVICE.search(part))
