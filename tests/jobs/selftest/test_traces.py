"""Counts of a trace of torch's profiler."""

from __future__ import annotations

import json
from pathlib import Path

from jobs.selftest import traces


def test_a_trace_of_a_gpu_is_counted_by_steps_kernels_and_named_groups(tmp_path: Path) -> None:
    events = [
        {"name": "meditron.step", "cat": "user_annotation", "ph": "X"},
        {"name": "meditron.step", "cat": "gpu_user_annotation", "ph": "X"},
        {"name": "gemm", "cat": "kernel", "ph": "X", "args": {"stream": 7}},
        {"name": "nccl", "cat": "kernel", "ph": "X", "args": {"Process Group Name": "1"}},
        {"name": "aten::mm", "cat": "cpu_op", "ph": "X"},
        {"name": "process_name", "ph": "M"},
    ]
    path = tmp_path / "rank-00000.trace.json"
    path.write_text(json.dumps({"traceEvents": events}))

    assert traces.counts(path) == {"traced_steps": 1, "kernels": 2, "grouped": 1}
