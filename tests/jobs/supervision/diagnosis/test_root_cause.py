"""Root-cause classification of the evidence about an attempt."""

from __future__ import annotations

import signal
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.contract.errors import STOPPED
from jobs.contract.outcomes import Diagnosis, Hang, NodeFinding, RootCause
from jobs.supervision.diagnosis import root_cause
from jobs.supervision.diagnosis.evidence import Evidence, RecoveryOptions

from ..endings import AFTERWARDS, KILL, NODES, changed, evidence, killed, logged, raised, rank

USR2, TERM = int(signal.SIGUSR2), int(signal.SIGTERM)
SAVED = rank(0, STOPPED, "Stopped", "saved")
PEER = "[/pytorch/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:27531"
WATCHDOG = "[Rank 0] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=9)"
LOCAL = RecoveryOptions(scheduler="local", nodes=("laptop",))
HANG = Hang("step", 130.0, 120.0, 2, "gpu02", "stopped by a signal (state T)")
FATAL = NodeFinding("gpu02", "gpu_lost", "FATAL", "GPU 3 has fallen off the bus")
DRAIN = replace(FATAL, verdict="DRAIN")
XID = NodeFinding("gpu02", "xid", "FATAL", "XID 79")
FULL = NodeFinding("gpu02", "disk", "FATAL", "/runs has 1 GB left")

PEERS = tuple(rank(number, 1, "RuntimeError", PEER) for number in range(3))


def everywhere(message: str, kind: str = "RuntimeError", **changes: object) -> Evidence:
    """Return evidence of the same exception in all four ranks of a run that never made a step."""
    left = tuple(rank(number, 1, kind, f"{message} {number}") for number in range(4))
    start = {"step_before": 0, "step_after": 0, "last_step": None}
    return evidence(ranks=left, code=1, **{**start, **changes})


CASES: list[tuple[str, Evidence, RootCause]] = [
    ("the target was reached", evidence(done=True, code=0), RootCause.COMPLETED),
    ("cancelled while leaving", evidence(signals=(TERM,), cancelled=True), RootCause.CANCELLED),
    ("cancelled by the job state", evidence(state="CANCELLED by 1000"), RootCause.CANCELLED),
    ("the file STOP", evidence(stop_requested=True, ranks=(SAVED,), code=130), RootCause.STOPPED),
    ("the supervisor refused", evidence(is_configuration_error=True), RootCause.CONFIGURATION),
    ("PreemptTime is set", evidence(preempted=True, signals=(USR2,)), RootCause.PREEMPTED),
    ("preempted, no signal seen", evidence(preempted=True, ranks=(SAVED,)), RootCause.PREEMPTED),
    ("a row PREEMPTED", evidence(state="PREEMPTED", options=AFTERWARDS), RootCause.PREEMPTED),
    ("supervisor killed", evidence(state="FAILED", supervisor_signal=9), RootCause.CRASH),
    ("requeued before the ranks left", evidence(state="REQUEUED"), RootCause.PREEMPTED),
    (
        "requeued, as its supervisor observed",
        evidence(state="REQUEUED", diagnosis=Diagnosis(RootCause.UNKNOWN, "x"), options=AFTERWARDS),
        RootCause.PREEMPTED,
    ),
    ("requeued, no record", evidence(state="REQUEUED", options=AFTERWARDS), RootCause.PREEMPTED),
    ("the early signal", evidence(signals=(USR2,), ranks=(SAVED,), code=130), RootCause.TIME_LIMIT),
    ("too slow to save", evidence(signals=(USR2,), ranks=(rank(3, KILL),)), RootCause.TIME_LIMIT),
    ("a row TIMEOUT", evidence(state="TIMEOUT", options=AFTERWARDS), RootCause.TIME_LIMIT),
    ("a row NODE_FAIL", evidence(state="NODE_FAIL", options=AFTERWARDS), RootCause.NODE_FAIL),
    ("a row BOOT_FAIL", evidence(state="BOOT_FAIL", options=AFTERWARDS), RootCause.NODE_FAIL),
    (
        "srun lost a node, the rest saved",
        evidence(failed_node="gpu02", code=0),
        RootCause.NODE_FAIL,
    ),
    ("SIGTERM alone", evidence(signals=(TERM,), ranks=(SAVED,), code=130), RootCause.UNKNOWN),
    ("SIGTERM without Slurm", evidence(signals=(TERM,), options=LOCAL), RootCause.STOPPED),
    ("SIGUSR2 without Slurm", evidence(signals=(USR2,), options=LOCAL), RootCause.STOPPED),
    ("the pre-flight", evidence(findings=(FATAL,), ranks_started=False), RootCause.UNHEALTHY),
    ("a GPU lost at work", evidence(findings=(FATAL,), ranks=(rank(3),)), RootCause.GPU_HARDWARE),
    ("the disk of all", evidence(findings=(FULL,), ranks_started=False), RootCause.STORAGE),
    ("XID 79", evidence(log_signs=(logged("xid", 79),)), RootCause.GPU_HARDWARE),
    ("XID 31", evidence(log_signs=(logged("xid", 31),)), RootCause.CUDA_ERROR),
    ("XID 45 after a kill", killed(log_signs=(logged("xid", 45),)), RootCause.CRASH),
    ("the kernel's OOM killer", killed(oom_kills=1), RootCause.HOST_OOM),
    ("OOM in the log", killed(log_signs=(logged("oom_kill", of=None),)), RootCause.HOST_OOM),
    ("OOM of a step", evidence(state="OUT_OF_MEMORY", options=AFTERWARDS), RootCause.HOST_OOM),
    ("a hang that ended in SIGKILL", killed(2, hang=HANG), RootCause.HANG),
    ("NCCL's watchdog", raised(WATCHDOG), RootCause.HANG),
    ("a rank killed", killed(), RootCause.CRASH),
    ("SIGSEGV", evidence(ranks=(rank(3, -11),), code=-11), RootCause.CRASH),
    ("a signal, no rank named", evidence(code=KILL), RootCause.CRASH),
    ("CUDA out of memory", raised("CUDA out of memory. Tried 2 GiB"), RootCause.CUDA_OOM),
    ("by PyTorch's type", raised("Tried to allocate", "OutOfMemoryError"), RootCause.CUDA_OOM),
    ("a CUDA error", raised("CUDA error: an illegal memory access"), RootCause.CUDA_ERROR),
    (
        "NaN",
        raised("loss of step 1205 is nan; keeps iter_1200", "NonFiniteLoss"),
        RootCause.NON_FINITE,
    ),
    ("no memory", raised("", "MemoryError"), RootCause.HOST_OOM),
    ("ENOSPC", raised("/runs/x: No space left on device", "OSError"), RootCause.STORAGE),
    ("EPERM", raised("/runs/x: Operation not permitted", "PermissionError"), RootCause.STORAGE),
    ("EACCES", raised("/runs/x: Permission denied", "PermissionError"), RootCause.STORAGE),
    (
        "a save",
        raised("iter_9 could not be written: ENOSPC: No", "StorageError"),
        RootCause.STORAGE,
    ),
    (
        "all damaged",
        raised("no checkpoint can be used", "CheckpointsDamaged"),
        RootCause.CHECKPOINT,
    ),
    ("not loadable", raised("iter_9 cannot be loaded into this model"), RootCause.CHECKPOINT),
    ("the data", raised("index 9", "IndexError", frame="jobs.engine.dataset:next"), RootCause.DATA),
    ("the port", raised("EADDRINUSE, address already in use"), RootCause.LAUNCH),
    (
        "no rendezvous",
        everywhere(
            "Timed out after 601 seconds waiting for clients. 1/2 clients joined.", "DistStoreError"
        ),
        RootCause.LAUNCH,
    ),
    (
        "an import on one node",
        raised("No module named 'x'", "ModuleNotFoundError"),
        RootCause.LAUNCH,
    ),
    (
        "an import nowhere",
        everywhere("No module 'x'", "ModuleNotFoundError"),
        RootCause.CONFIGURATION,
    ),
    ("a wrong setting", evidence(ranks=(rank(0, 2, "TaskError", "?"),)), RootCause.CONFIGURATION),
    ("exit code 2", evidence(ranks=(rank(0, 2),), code=2), RootCause.CONFIGURATION),
    ("all ranks before step 1", everywhere("bad shape"), RootCause.CONFIGURATION),
    (
        "a KeyError before step 1",
        raised("'x'", "KeyError", step_before=0, step_after=0, last_step=None),
        RootCause.CONFIGURATION,
    ),
    ("all ranks at work", everywhere("bad shape", last_step=3), RootCause.EXCEPTION),
    ("all ranks after a resume", everywhere("bad shape", step_before=100), RootCause.EXCEPTION),
    ("one rank at work", raised("'x'", "KeyError"), RootCause.EXCEPTION),
    ("an exit code", evidence(ranks=(rank(0, 7),), code=7), RootCause.EXCEPTION),
    (
        "the log of a rank without a record",
        evidence(ranks=(rank(3),), log_signs=(logged("cuda_error"),)),
        RootCause.CUDA_ERROR,
    ),
    ("the log alone", evidence(log_signs=(logged("disk_full"),)), RootCause.STORAGE),
    (
        "a symptom comes before it",
        evidence(log_signs=(logged("gloo_peer"), logged("quota"))),
        RootCause.STORAGE,
    ),
    ("a finding on another node", raised("CUDA error: x", findings=(DRAIN,)), RootCause.CUDA_ERROR),
    ("every rank blames another", raised(PEER), RootCause.UNKNOWN),
    ("another training writes", raised("iter: held", "WriterHeld"), RootCause.UNKNOWN),
    (
        "ranks never started",
        evidence(ranks_started=False, message="srun: not found"),
        RootCause.LAUNCH,
    ),
    ("exit 0 without the target", evidence(code=0), RootCause.UNKNOWN),
    ("nothing is known", evidence(state="FAILED", options=AFTERWARDS), RootCause.UNKNOWN),
]


@pytest.mark.parametrize(
    ("case", "cause"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_what_is_known_names_the_cause(case: Evidence, cause: RootCause) -> None:
    assert root_cause.classify(case).cause is cause


def test_every_cause_has_a_case() -> None:
    assert {cause for _, _, cause in CASES} == set(RootCause)


REFUSED: list[tuple[str, Evidence, RootCause]] = [
    ("an exit without a record", evidence(ranks=(rank(3),), code=1), RootCause.STORAGE),
    ("its peers have records", evidence(ranks=(rank(3), PEERS[0]), code=1), RootCause.STORAGE),
    ("only peers have records", evidence(ranks=PEERS, code=1), RootCause.STORAGE),
    ("no rank failed", evidence(code=0), RootCause.STORAGE),
    ("ranks never started", evidence(ranks_started=False, message="full"), RootCause.STORAGE),
    (
        "a failed save on request",
        evidence(signals=(TERM,), ranks=(rank(3), SAVED), code=1),
        RootCause.STORAGE,
    ),
    ("a recorded exception", raised("loss is odd", "ValueError"), RootCause.EXCEPTION),
    ("a recorded error of the program", raised("", "AcceleratorError"), RootCause.CUDA_ERROR),
    ("a killed rank", killed(), RootCause.CRASH),
    ("a signal, no rank named", evidence(code=KILL), RootCause.CRASH),
    ("a wrong setting", evidence(ranks=(rank(3, 2),), code=2), RootCause.CONFIGURATION),
    (
        "its log",
        evidence(ranks=(rank(3),), log_signs=(logged("cuda_error"),)),
        RootCause.CUDA_ERROR,
    ),
    ("the log alone", evidence(log_signs=(logged("cuda_oom"),)), RootCause.CUDA_OOM),
    ("NCCL's watchdog", raised(WATCHDOG), RootCause.HANG),
    ("an unfit node", evidence(findings=(FATAL,), ranks_started=False), RootCause.UNHEALTHY),
    ("memory", evidence(ranks=(rank(3),), oom_kills=1), RootCause.HOST_OOM),
    ("a hang", evidence(hang=HANG), RootCause.HANG),
    ("the target was reached", evidence(done=True, code=0), RootCause.COMPLETED),
    ("cancelled", evidence(ranks=(rank(3),), cancelled=True), RootCause.CANCELLED),
    ("the file STOP", evidence(ranks=(rank(3),), stop_requested=True), RootCause.STOPPED),
    ("preempted", evidence(ranks=(rank(3),), preempted=True), RootCause.PREEMPTED),
    ("a failed node", evidence(ranks=(rank(3),), failed_node="gpu02"), RootCause.NODE_FAIL),
    ("the early signal", evidence(signals=(USR2,), ranks=(SAVED,)), RootCause.TIME_LIMIT),
]
"""Ends of attempts whose folder takes no files."""


@pytest.mark.parametrize(
    ("case", "cause"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED]
)
def test_a_failure_without_a_known_cause_while_storage_refuses_files_is_of_storage(
    case: Evidence, cause: RootCause
) -> None:
    assert root_cause.classify(changed(case, storage_refuses=True)).cause is cause


@pytest.mark.parametrize(
    ("case", "sentence"),
    [
        (killed(), "rank 3 on gpu02 was killed by SIGKILL at step 1,204"),
        (
            evidence(ranks=(rank(3),), code=1, storage_refuses=True),
            "rank 3 on gpu02 failed at step 1,204 without a record; "
            "the run directory takes no files",
        ),
        (
            evidence(failed_node="gpu02", code=0),
            "gpu02 failed at step 1,204",
        ),
        (
            killed(2, hang=HANG),
            "no progress in phase step for 130 s at step 1,204: rank 2 on gpu02 stopped first "
            "(stopped by a signal (state T))",
        ),
        (
            raised("loss is odd.\nsee there", "ValueError"),
            "rank 1 on gpu01 failed at step 1,204: loss is odd. see there",
        ),
        (
            evidence(state="CANCELLED by 0", cancelled_by="admin"),
            "attempt 1 of pretrain was cancelled by an administrator",
        ),
        (
            evidence(findings=(FATAL,), ranks_started=False),
            "gpu02 is unhealthy: GPU 3 has fallen off the bus (gpu_lost)",
        ),
        (
            evidence(findings=(FATAL, XID, replace(FATAL, node="gpu01"))),
            "gpu02 is unhealthy: GPU 3 has fallen off the bus (gpu_lost); XID 79 (xid)",
        ),
        (
            killed(oom_kills=2),
            "rank 3 on gpu02 was killed because its node ran out of memory at step 1,204",
        ),
        (
            evidence(log_signs=(logged("xid", 79),), options=RecoveryOptions(nodes=("gpu07",))),
            "a GPU on gpu07 reported XID 79 at step 1,204",
        ),
        (
            evidence(state="RUNNING", job_id="9"),
            "the ranks of attempt 1 of pretrain ended at step 1,204 without a known cause",
        ),
        (
            evidence(state="FAILED", job_id="9", last_step=None, options=AFTERWARDS),
            "job 9 ended as FAILED without a known cause",
        ),
        (
            raised(PEER, last_step=None),
            "rank 1 on gpu01 lost another rank, and no rank reported a cause",
        ),
        (
            evidence(state="NODE_FAIL", job_id="9", last_step=None, options=AFTERWARDS),
            "an unidentified node of job 9 failed",
        ),
    ],
)
def test_the_sentence_names_rank_node_step_and_event(case: Evidence, sentence: str) -> None:
    assert root_cause.classify(case).sentence == sentence


def test_a_rank_that_was_killed_is_the_cause_and_not_the_one_that_complains_first() -> None:
    complains = rank(0, 1, "RuntimeError", PEER, time=5.0)

    diagnosis = root_cause.classify(
        evidence(ranks=(complains, rank(3, KILL, time=30.0)), code=KILL)
    )

    assert (diagnosis.cause, diagnosis.node) == (RootCause.CRASH, "gpu02")


def test_the_first_exception_in_time_is_the_cause_and_not_the_ranks_killed_after_it() -> None:
    raising = rank(1, 1, "ValueError", "no such id", time=5.0)

    diagnosis = root_cause.classify(evidence(ranks=(rank(3, KILL, time=30.0), raising), code=1))

    assert (diagnosis.cause, diagnosis.sentence.split(":")[0]) == (
        RootCause.EXCEPTION,
        "rank 1 on gpu01 failed at step 1,204",
    )


def test_a_rank_aborted_by_the_watchdog_is_a_symptom_of_the_rank_that_failed() -> None:
    aborted = rank(0, -signal.SIGABRT, time=5.0)
    raising = rank(3, 1, "ValueError", "no such id", time=9.0)
    case = evidence(ranks=(aborted, raising), log_signs=(logged("nccl_timeout", of=0),), code=1)

    assert root_cause.classify(case).cause is RootCause.EXCEPTION


def test_a_rank_that_raised_is_the_cause_of_the_hang_of_the_others() -> None:
    raising = rank(3, 1, "ValueError", "no such id")

    assert root_cause.classify(evidence(ranks=(raising,), hang=HANG)).cause is RootCause.EXCEPTION


@pytest.mark.parametrize("signals", [(USR2,), (TERM,)])
def test_a_save_that_fails_on_request_is_no_time_limit(signals: tuple[int, ...]) -> None:
    failing = rank(0, 1, "StorageError", "iter_9 could not be written: ENOSPC: No space left")

    case = evidence(ranks=(failing, SAVED), signals=signals, code=1)

    assert root_cause.classify(case).cause is RootCause.STORAGE


def test_a_full_disk_seen_by_the_pre_flight_is_no_fault_of_the_node() -> None:
    full = NodeFinding("gpu02", "storage", "FATAL", "/runs: No space left on device")

    diagnosis = root_cause.classify(evidence(findings=(full,), ranks_started=False))

    assert (diagnosis.cause, diagnosis.node) == (RootCause.STORAGE, "")


def test_a_finding_against_its_node_makes_a_cuda_error_a_fault_of_the_gpu() -> None:
    drain = NodeFinding("gpu01", "ecc_uncorrected", "DRAIN", "2 uncorrected memory errors")

    diagnosis = root_cause.classify(
        raised("CUDA error: unspecified launch failure", findings=(drain,))
    )

    assert (diagnosis.cause, diagnosis.node) == (RootCause.GPU_HARDWARE, "gpu01")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (raised("a 1 b", node="gpu01"), raised("a 77 b", node="gpu02"), True),
        (raised("in /a/b.py at 0x7f01"), raised("in /c/d/e.py at 0xaa02"), True),
        (raised("a", by=0), raised("a", by=3), True),
        (raised("CUDA error: x", by=0), raised("CUDA error: x", by=3), False),
        (raised("a 1 b"), raised("a 1 c"), False),
        (raised("a", frame="m:f"), raised("a", frame="m:g"), False),
        (raised("a", "ValueError"), raised("a", "RuntimeError"), False),
        (evidence(ranks=(rank(3, -11),)), evidence(ranks=(rank(3, -7),)), False),
        (evidence(ranks=(rank(3, -11),)), evidence(ranks=(rank(2, -11),)), False),
    ],
)
def test_a_fingerprint_is_of_the_failure_and_not_of_the_place(
    one: Evidence, other: Evidence, same: bool
) -> None:
    prints = [root_cause.classify(case).fingerprint for case in (one, other)]

    assert all(prints)
    assert (prints[0] == prints[1]) is same


@pytest.mark.parametrize(
    "case",
    [
        killed(),
        evidence(done=True),
        evidence(preempted=True),
        evidence(signals=(USR2,)),
        evidence(failed_node="gpu02"),
        evidence(code=0),
    ],
)
def test_what_comes_from_outside_has_no_fingerprint(case: Evidence) -> None:
    assert root_cause.classify(case).fingerprint == ""


def test_what_the_supervisor_saw_stands_when_another_decides_again() -> None:
    known = Diagnosis(RootCause.CRASH, "rank 3 on gpu02 was killed by SIGBUS", "gpu02", "abc")

    case = evidence(diagnosis=known, state="FAILED", options=AFTERWARDS)

    assert root_cause.classify(case) == known


@pytest.mark.parametrize(
    ("state", "cause"),
    [
        ("CANCELLED by 1000", RootCause.CANCELLED),
        ("TIMEOUT", RootCause.TIME_LIMIT),
        ("NODE_FAIL", RootCause.NODE_FAIL),
        ("PREEMPTED", RootCause.PREEMPTED),
        ("FAILED", RootCause.UNKNOWN),
    ],
)
def test_slurms_last_word_settles_what_the_supervisor_did_not_know(
    state: str, cause: RootCause
) -> None:
    known = Diagnosis(RootCause.UNKNOWN, "Slurm is ending job 12 and reports no reason")

    case = evidence(diagnosis=known, state=state, options=AFTERWARDS)

    assert root_cause.classify(case).cause is cause


@given(st.text(), st.text(), st.integers(-64, 255), st.text(max_size=9), st.text(max_size=9))
def test_whatever_ranks_and_slurm_say_the_verdict_is_one_sentence(
    kind: str, message: str, code: int, state: str, node: str
) -> None:
    case = evidence(
        ranks=(rank(1, code, kind, message, node=node),),
        code=code,
        state=state,
        message=message,
    )

    diagnosis = root_cause.classify(case)

    assert diagnosis == root_cause.classify(case)
    assert diagnosis.sentence
    assert len(diagnosis.sentence.splitlines()) == 1
    assert diagnosis.node in (node, *NODES, "")
