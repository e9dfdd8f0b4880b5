"""The time of steps by what it went into, from small traces whose every microsecond is known."""

from __future__ import annotations

from typing import Any

import pytest

from jobs.runtime.profile_record import DATA, STEP
from meditron_cli.profiling.step_times import NoSteps, RankTimes, rank_times

MAIN, WORKER, STREAM, OTHER = 1, 2, 7, 20


def event(name: str, cat: str, begin: float, end: float, tid: int = MAIN, **args: Any):
    """Return a complete event, times in seconds."""
    times = {"ts": 1e6 * begin, "dur": 1e6 * (end - begin)}
    return {"ph": "X", "cat": cat, "name": name, "tid": tid, "args": args, **times}


def step(begin: float, end: float):
    return event(STEP, "user_annotation", begin, end)


def operator(begin: float, end: float, name: str = "aten::mm", tid: int = MAIN):
    return event(name, "cpu_op", begin, end, tid)


def gloo(begin: float, end: float, name: str = "gloo:all_reduce", tid: int = WORKER):
    return event(name, "user_annotation", begin, end, tid)


def kernel(begin: float, end: float, name: str = "gemm", tid: int = STREAM, **args: Any):
    return event(name, "kernel", begin, end, tid, **args)


def nccl(begin: float, end: float, group: str, **args: Any):
    args["Process Group Description"] = group
    return kernel(begin, end, "ncclDevKernel_AllReduce_Sum_bf16_RING_LL", OTHER, **args)


def parts(times: RankTimes) -> tuple[float, float, float, float]:
    return times.compute, times.exposed, times.data, times.idle


def test_communication_is_exposed_where_nothing_computes() -> None:
    times = rank_times([step(0, 10), operator(0, 4), gloo(2, 7)])

    assert parts(times) == (4, 3, 0, 3)
    assert times.groups["gloo:all_reduce"].total == 5
    assert times.groups["gloo:all_reduce"].exposed == 3


def test_the_parts_of_a_step_add_up_and_are_averages_over_steps() -> None:
    data = event(DATA, "user_annotation", 0, 2)
    trace = [step(0, 5), step(6, 10), data, operator(1, 4), gloo(3, 6.5), operator(8, 9)]

    times = rank_times(trace)

    assert times.steps == 2
    assert times.step == 4.5
    assert times.data == 0.5
    assert times.compute == 2
    assert times.exposed == 0.75  # 4 to 5, and 6 to 6.5
    assert sum(parts(times)) == times.step


def test_what_lies_between_steps_does_not_count() -> None:
    times = rank_times([step(0, 1), operator(1, 5), gloo(1, 5), step(5, 6)])

    assert parts(times) == (0, 0, 0, 1)
    assert times.groups == {}


def test_operators_in_the_threads_of_gloo_are_communication() -> None:
    times = rank_times([step(0, 4), gloo(0, 4), operator(1, 3, tid=WORKER)])

    assert parts(times) == (0, 4, 0, 0)


def test_sends_from_the_main_thread_do_not_hide_its_operators() -> None:
    times = rank_times([step(0, 4), gloo(0, 1, "gloo:send", MAIN), operator(1, 3)])

    assert parts(times) == (2, 1, 0, 1)


def test_calls_and_backward_functions_are_no_compute_by_themselves() -> None:
    trace = [
        step(0, 4),
        operator(0, 4, "c10d::allreduce_"),
        operator(0, 4, "autograd::engine::evaluate_function: MmBackward0"),
        operator(1, 2),
    ]

    assert parts(rank_times(trace)) == (1, 0, 0, 3)


def test_on_a_gpu_only_its_kernels_and_copies_compute() -> None:
    copy = event("Memcpy HtoD", "gpu_memcpy", 3, 4, STREAM)

    times = rank_times([step(0, 10), operator(0, 10), kernel(1, 3), copy])

    assert parts(times) == (3, 0, 0, 7)


def test_groups_of_nccl_have_the_names_of_their_layouts() -> None:
    trace = [
        step(0, 10),
        kernel(0, 4),
        nccl(3, 5, "TENSOR_MODEL_PARALLEL_GROUP"),
        nccl(4, 6, "DATA_PARALLEL_GROUP_WITH_CP"),
        nccl(8, 9, "undefined", **{"Process Group Name": "12"}),
    ]

    times = rank_times(trace)

    assert {name: group.exposed for name, group in times.groups.items()} == {
        "tensor": 1,
        "data": 2,
        "group 12": 1,
    }
    assert times.exposed == 3  # two groups communicate from 4 to 5


def test_the_copy_of_a_range_on_the_gpu_is_no_second_step() -> None:
    mirrored = event(STEP, "gpu_user_annotation", 0.5, 12, STREAM)

    assert rank_times([step(0, 10), mirrored, kernel(1, 3)]).steps == 1


def test_the_peak_of_allocations_is_that_inside_the_steps() -> None:
    def allocation(at: float, total: int):
        return {"ph": "i", "name": "[memory]", "ts": 1e6 * at, "args": {"Total Allocated": total}}

    trace = [step(1, 2), allocation(0, 900), allocation(1.5, 300), allocation(1.7, 200)]

    assert rank_times(trace).peak_bytes == 300
    assert rank_times([step(1, 2)]).peak_bytes is None


def test_a_trace_without_steps_is_refused() -> None:
    with pytest.raises(NoSteps):
        rank_times([operator(0, 1), {"ph": "M", "name": "process_name", "args": {}}])
