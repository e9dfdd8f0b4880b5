"""The Slurm scheduler against stand-ins for Slurm's commands: submitit itself is real."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner

from jobs.contract.events import IntentEvent, SubmitEvent, submit_event
from jobs.contract.files import read_json
from jobs.contract.rundir import RunDir
from jobs.health import node_ledger
from jobs.slurm import queries, transaction
from jobs.slurm.client import SACCT_IDS
from jobs.slurm.states import LEFT_THE_QUEUE, JobInfo, JobState
from meditron_cli.errors import ConfigError, SchedulerError
from meditron_cli.main import main
from meditron_cli.plan.model import Plan
from meditron_cli.scheduler.slurm import SlurmScheduler

from ...fake_slurm import FakeSlurm
from ...plans import GOLDEN, plan_of, plan_on
from ...ranks import wait_until

RUN = "med-tiny-0"
"""The run that owns what is in the stand-in queue without a name."""
LOST = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation\n"
DOWN = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n"


def scheduler(programs: FakeSlurm, **more: str) -> SlurmScheduler:
    return SlurmScheduler({**programs.environ, **more})


def run_folder(tmp_path: Path, name: str = "med-tiny-0") -> Path:
    """Return a run directory with what sbatch needs of it."""
    run = tmp_path / "runs" / name
    (run / "code").mkdir(parents=True)
    return run


def submit(
    programs: FakeSlurm,
    plan: Plan,
    stage: str,
    run: Path,
    *,
    indices: range | None = None,
    attempt: int = 1,
    after: tuple[str, ...] = (),
) -> list[str]:
    """Submit a stage as a launch does."""
    found = plan.stage(stage)
    RunDir(run).attempt(stage, attempt).mkdir(parents=True)
    numbers = range(len(found.tasks)) if indices is None else indices
    site, intent = scheduler(programs), intent_of(stage, attempt, numbers)

    def make() -> SubmitEvent:
        return submit_event(intent, site.submit(plan, found, numbers, run, attempt, after), ())

    return list(transaction.submit(RunDir(run), intent, site, make).job_ids)


def intent_of(stage: str, attempt: int, indices: Sequence[int] = ()) -> IntentEvent:
    return IntentEvent(0.0, stage, attempt, tuple(indices), "slurm")


def account(job_id: str, state: str, time: str) -> str:
    """Return a line of the accounting of something submitted and started at a time of day."""
    day = f"2026-01-01T{time}:00"
    return f"{job_id}|{state}|0:0|{day}|{day}|Unknown|cpu01\n"


# ---- scripts


def test_a_dry_run_needs_no_slurm_and_gives_the_same_bytes_each_time() -> None:
    plan = plan_of("site-pyxis", "7b", "parallel.data=2", "curate.shards=103")

    texts = {SlurmScheduler({"PATH": ""}).render(plan, Path("/runs/r")) for _ in range(3)}

    assert len(texts) == 1


@pytest.mark.parametrize(
    ("cluster", "overrides"),
    [
        ("test-slurm", ("curate.shards=103",)),
        ("site-pyxis", ("parallel.data=2", "pretrain.micro_batch_size=8")),
        ("site-apptainer", ()),
    ],
)
def test_sbatch_gets_the_very_bytes_of_the_dry_run(
    slurm_programs: FakeSlurm, tmp_path: Path, cluster: str, overrides: tuple[str, ...]
) -> None:
    """Only the ids of the jobs a script waits for are not known before."""
    plan, run = plan_of(cluster, "tiny", *overrides), run_folder(tmp_path)
    shown = SlurmScheduler({}).render(plan, run)
    site = scheduler(slurm_programs)

    live: dict[str, list[str]] = {}
    submitted: list[str] = []
    for stage in plan.stages:
        after = [job for name in stage.after for job in live[name]]
        RunDir(run).attempt(stage.stage, 1).mkdir(parents=True)
        ids = site.submit(plan, stage, range(len(stage.tasks)), run, 1, after)
        live[stage.stage] = list(dict.fromkeys(job.split("_")[0] for job in ids))
        submitted += [*live[stage.stage], *site.submit_recovery_job(plan, stage, run, 1, ids)]

    scripts = re.split(r"#### .* ####\n", shown)[1:]
    expected = [fill_in(text, live).rstrip("\n") for text in scripts]
    assert len(submitted) > 2 * len(plan.stages) - 1
    assert [slurm_programs.script(job).rstrip("\n") for job in submitted] == expected


def fill_in(script: str, arrays: Mapping[str, list[str]]) -> str:
    """Put ids in the place of ``<stage>``; what then needs no quotes has none."""

    def ids(match: re.Match[str]) -> str:
        stages = re.findall(r"<(\w+)>", match[2])
        return ":".join([match[1], *(job for stage in stages for job in arrays[stage])])

    return re.sub(r"'(afterok|afterany)((?::<\w+>)+)'", ids, script)


def test_a_stage_waits_for_an_array_by_its_one_id(
    slurm_programs: FakeSlurm, tmp_path: Path
) -> None:
    plan, run = plan_of("test-slurm", "tiny", "curate.shards=103"), run_folder(tmp_path)
    site = scheduler(slurm_programs)
    for stage in ("tokenize", "pretrain"):
        RunDir(run).attempt(stage, 1).mkdir(parents=True)

    tokens = site.submit(plan, plan.stage("tokenize"), range(104), run, 1, ["99"])
    (training,) = site.submit(plan, plan.stage("pretrain"), [0], run, 1, ["98_3", *tokens])

    assert "#SBATCH --dependency=afterok:98_3:101:102\n" in slurm_programs.script(training)


def test_one_task_is_a_plain_job_and_several_are_an_array(
    slurm_programs: FakeSlurm, tmp_path: Path
) -> None:
    plan, run = plan_of("test-slurm", "tiny"), run_folder(tmp_path)

    one = submit(slurm_programs, plan, "tokenize", run, indices=range(3, 4))
    three = submit(slurm_programs, plan, "tokenize", run, indices=range(3, 6), attempt=2)

    assert one == ["101"]
    assert three == ["102_0", "102_1", "102_2"]
    assert "--array" not in slurm_programs.script("101")
    assert "#SBATCH --array=0-2%3\n" in slurm_programs.script("102")


def test_tasks_beyond_the_longest_array_are_several(
    slurm_programs: FakeSlurm, tmp_path: Path
) -> None:
    plan, run = plan_of("test-slurm", "tiny", "curate.shards=103"), run_folder(tmp_path)

    ids = submit(slurm_programs, plan, "tokenize", run)

    assert ids == [*(f"101_{i}" for i in range(101)), "102_0", "102_1", "102_2"]


# ---- what a job inherits


def test_a_job_inherits_the_allow_list_and_nothing_of_an_outer_job(
    slurm_programs: FakeSlurm, tmp_path: Path
) -> None:
    plan, run = plan_of("site-pyxis", "7b", "parallel.data=2"), run_folder(tmp_path)
    outer = {
        "SLURM_CPU_BIND": "none",
        "SLURM_CONF": "/etc/our.conf",
        "SBATCH_PARTITION": "wrong",
        "PMI_RANK": "3",
        "MASTER_ADDR": "node7",
        "AWS_SECRET_ACCESS_KEY": "x",
        "HF_HOME": "/data/hf",
        "LMOD_CMD": "/lmod",
    }
    found = plan.stage("curate")
    RunDir(run).attempt("curate", 1).mkdir(parents=True)

    scheduler(slurm_programs, **outer).submit(plan, found, [0], run, 1, [])

    inherited = slurm_programs.job_environment("101")
    assert {name: inherited[name] for name in ("SLURM_CONF", "HF_HOME", "LMOD_CMD")} == {
        "SLURM_CONF": "/etc/our.conf",
        "HF_HOME": "/data/hf",
        "LMOD_CMD": "/lmod",
    }
    gone = outer.keys() - {"SLURM_CONF", "HF_HOME", "LMOD_CMD"}
    assert not gone & inherited.keys()


def test_this_process_keeps_its_environment(
    slurm_programs: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEEP_ME", "1")
    before = dict(os.environ)

    submit(slurm_programs, plan_of("test-slurm", "tiny"), "curate", run_folder(tmp_path))

    assert dict(os.environ) == before


# ---- values that a shell would read as something else


HOSTILE = "a b'c\"d$(touch pwned)`touch pwned`;touch pwned;&#"


def hostile_profile(folder: Path) -> Path:
    """Return a profile whose every free value is hostile."""
    text = (GOLDEN / "site-apptainer.yaml").read_text()
    value = HOSTILE.replace("'", "''")
    lines = f"environment:\n  set: {{TITLE: '{value}'}}\n"
    path = folder / "hostile.yaml"
    path.write_text(text.split("environment:")[0].replace("site-apptainer", "hostile") + lines)
    return path


def test_hostile_values_never_become_shell_text(slurm_programs: FakeSlurm, tmp_path: Path) -> None:
    """The script runs as far as Python, which finds the path whole; nothing else has run."""
    plan = plan_on(hostile_profile(tmp_path), "tiny")
    run = run_folder(tmp_path / HOSTILE)
    python = tmp_path / HOSTILE / "python"
    python.write_text('#!/bin/bash\nprintf "%s\\n" "$TITLE" "$PYTHONPATH" "$@"\n')
    python.chmod(0o755)
    site = dataclasses.replace(plan.site, python=str(python))
    plan = dataclasses.replace(plan, site=site)

    (job,) = submit(slurm_programs, plan, "curate", run)

    script = slurm_programs.state / f"{job}.sh"
    subprocess.run(["bash", "-n", script], check=True)
    done = subprocess.run(
        ["bash", script],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    folder = RunDir(run).attempt("curate", 1)
    assert done.stdout.splitlines() == [
        HOSTILE,
        f"{run}/code",
        *("-u", "-m", "submitit.core._submit"),
        str(folder),
    ]
    assert done.stderr == ""
    assert not list(tmp_path.rglob("pwned"))
    options = dict(
        shlex.split(line.removeprefix("#SBATCH --"))[0].split("=", 1)
        for line in script.read_text().splitlines()
        if line.startswith("#SBATCH --") and "=" in line
    )
    assert options["chdir"] == f"{run}/code"
    assert options["output"] == f"{folder}/%j_0_log.out"


def test_a_whole_stage_runs_in_a_hostile_folder(
    slurm_programs: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From `submit` through submitit, the batch script, the supervisor and srun to the marker."""
    slurm_programs.tell("run")
    folder = tmp_path / HOSTILE
    folder.mkdir()
    monkeypatch.chdir(folder)
    text = json.dumps({"id": "1", "text": "fever " * 40})
    (folder / "docs.jsonl").write_text(f"{text}\n")
    words = ("submit", "curate", "--cluster", "test-slurm", "--size", "tiny", "--json")

    sources = ("--set", "curate.sources=[docs.jsonl]", "--set", "curate.validation_fraction=0")
    result = CliRunner().invoke(main, [*words, *sources, "--runs-dir", str(folder / "runs")])
    assert result.exit_code == 0, result.stderr
    run = RunDir(Path(json.loads(result.stdout)["dir"]))
    wait_until(lambda: len(slurm_programs.ended()) == 2)

    assert slurm_programs.ended() == {"101": 0, "102": 0}  # the second is its recovery job
    assert read_json(run.done("curate", 0))["summary"]["documents"] == 1
    assert not list(tmp_path.rglob("pwned"))


# ---- nodes that failed us


@pytest.mark.parametrize(
    ("bad", "excluded", "stderr"),
    [
        (("cpu02",), "#SBATCH --exclude=cpu02\n", ""),
        (("nosuch",), "", ""),
        (
            ("cpu01", "cpu02", "cpu03"),
            "#SBATCH --exclude=cpu03,cpu02\n",
            "curate: cpu01 may be used although in the node ledger: ",
        ),
    ],
)
def test_a_submission_excludes_the_nodes_in_the_ledger(
    slurm_programs: FakeSlurm,
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    bad: tuple[str, ...],
    excluded: str,
    stderr: str,
) -> None:
    monkeypatch.chdir(project)
    slurm_programs.tell("nodes", "".join(f"cpu0{number}\n" for number in range(1, 5)))
    now = time.time()
    entries = [
        node_ledger.strike(node, "FATAL", "xid", "an error", now + number)
        for number, node in enumerate(bad)
    ]
    node_ledger.append(node_ledger.ledger(project / "runs", "test-slurm"), entries)
    words = ("submit", "curate", "--cluster", "test-slurm", "--size", "tiny")

    result = CliRunner().invoke(main, [*words, "--runs-dir", str(project / "runs")])

    assert result.exit_code == 0, result.stderr
    assert excluded in slurm_programs.script("101")
    assert ("--exclude" in slurm_programs.script("101")) == bool(excluded)
    assert stderr in result.stderr
    (submitted,) = project.glob("runs/*/stages/curate/attempts/1/submission.json")
    assert list(read_json(submitted)["exclude"]) == (
        excluded.strip().partition("--exclude=")[2].split(",") if excluded else []
    )


@pytest.mark.parametrize("name", ["100%done", "back\\slash", "two\nlines", "a:b"])
def test_a_path_that_slurm_would_not_take_literally_is_refused(
    slurm_programs: FakeSlurm, tmp_path: Path, name: str
) -> None:
    plan, run = plan_of("test-slurm", "tiny"), tmp_path / name / "med-tiny-0"

    with pytest.raises(ConfigError, match="Slurm or Python would not take literally") as caught:
        scheduler(slurm_programs).submit(plan, plan.stages[0], [0], run, 1, [])

    assert caught.value.hint == "name another place with --runs-dir"
    with pytest.raises(ConfigError):
        SlurmScheduler({}).render(plan, run)
    assert slurm_programs.calls() == []


def test_a_path_that_a_containers_mount_would_split_is_refused_only_there() -> None:
    run = Path("/runs/a,b/r")

    SlurmScheduler({}).render(plan_of("test-slurm", "tiny"), run)
    with pytest.raises(ConfigError, match=re.escape("has ',' in its path")):
        SlurmScheduler({}).render(plan_of("site-apptainer", "tiny"), run)


# ---- refusals


@pytest.mark.parametrize(
    ("stderr", "sentence"),
    [
        (
            "sbatch: error: Batch job submission failed: Invalid partition name specified\n",
            "sbatch refused curate: Invalid partition name specified",
        ),
        (
            "sbatch: error: You must name an account\n"
            "sbatch: error: Batch job submission failed: Unspecified error\n",
            "sbatch refused curate: You must name an account",
        ),
        (
            "sbatch: error: Batch job submission failed: Unspecified error\n",
            "sbatch refused curate: Unspecified error",
        ),
        ("who are you?\n", "sbatch refused curate: who are you?"),
        ("", "sbatch refused curate: it gave no reason"),
        (
            LOST,
            "Slurm did not answer sbatch for curate: Socket timed out on send/recv operation",
        ),
    ],
)
def test_the_output_of_sbatch_becomes_one_sentence(
    slurm_programs: FakeSlurm,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    stderr: str,
    sentence: str,
) -> None:
    slurm_programs.tell("refuse-1", stderr)

    with pytest.raises(SchedulerError) as caught:
        submit(slurm_programs, plan_of("test-slurm", "tiny"), "curate", run_folder(tmp_path))

    assert caught.value.message == sentence
    assert capsys.readouterr() == ("", "")


def test_a_second_array_refused_takes_the_first_back(
    slurm_programs: FakeSlurm, tmp_path: Path
) -> None:
    plan, run = plan_of("test-slurm", "tiny", "curate.shards=103"), run_folder(tmp_path)
    slurm_programs.tell("refuse-2", "sbatch: error: too many jobs\n")

    with pytest.raises(SchedulerError, match=r"^sbatch refused tokenize: too many jobs$"):
        submit(slurm_programs, plan, "tokenize", run)

    assert slurm_programs.queued() == []
    assert len(submit(slurm_programs, plan, "tokenize", run, attempt=2)) == 104


def test_a_job_whose_id_never_came_is_taken_back(slurm_programs: FakeSlurm, tmp_path: Path) -> None:
    """A controller that answers too late has queued the job all the same."""
    plan, run = plan_of("test-slurm", "tiny"), run_folder(tmp_path)
    other = f"7|PENDING|Priority|{run.name}.curate|7|run={run.name},attempt=1|/elsewhere/code"
    slurm_programs.queue(other)
    slurm_programs.tell("lose-1", LOST)

    with pytest.raises(SchedulerError, match="did not answer"):
        submit(slurm_programs, plan, "curate", run)

    assert slurm_programs.queued() == ["7"]


def test_without_an_answer_the_sentence_names_what_may_be_queued(
    slurm_programs: FakeSlurm, tmp_path: Path
) -> None:
    slurm_programs.tell("lose-1", LOST)
    slurm_programs.tell("down", DOWN)

    with pytest.raises(SchedulerError) as caught:
        submit(slurm_programs, plan_of("test-slurm", "tiny"), "curate", run_folder(tmp_path))

    assert caught.value.message == (
        "Slurm did not answer sbatch for curate: Socket timed out on send/recv operation; "
        "jobs named med-tiny-0.curate may be queued all the same"
    )


def test_an_attempt_is_withdrawn_by_what_was_written_on_its_jobs(
    slurm_programs: FakeSlurm, tmp_path: Path
) -> None:
    plan, run = plan_of("test-slurm", "tiny"), run_folder(tmp_path)
    submit(slurm_programs, plan, "tokenize", run, indices=range(3))
    (kept,) = submit(slurm_programs, plan, "tokenize", run, indices=range(1), attempt=2)

    scheduler(slurm_programs).withdraw(RunDir(run), intent_of("tokenize", 1))

    assert slurm_programs.queued() == [kept]


@pytest.mark.parametrize("program", ["sbatch", "srun"])
def test_a_machine_without_slurm_cannot_submit(
    slurm_programs: FakeSlurm, tmp_path: Path, program: str
) -> None:
    slurm_programs.remove(program)
    plan = plan_of("test-slurm", "tiny")
    site = SlurmScheduler(slurm_programs.alone)

    with pytest.raises(SchedulerError) as caught:
        site.submit(plan, plan.stage("curate"), [0], run_folder(tmp_path), 1, [])

    assert caught.value.message == (
        f"{program} is not on PATH, so this machine cannot submit to Slurm"
    )
    assert slurm_programs.calls() == []


# ---- states


def test_no_jobs_are_no_question(slurm_programs: FakeSlurm) -> None:
    assert scheduler(slurm_programs).states({RUN: []})[RUN] == {}
    assert slurm_programs.calls() == []


def test_jobs_in_the_queue_are_one_call(slurm_programs: FakeSlurm) -> None:
    slurm_programs.queue(
        "1|PENDING|Priority", "2_0|RUNNING|None", "3|PENDING|DependencyNeverSatisfied"
    )

    found = scheduler(slurm_programs).states({RUN: ["1", "2_0", "3"]})[RUN]

    assert found == {
        "1": JobInfo("1", JobState.QUEUED, "PENDING", "Priority"),
        "2_0": JobInfo("2_0", JobState.ACTIVE, "RUNNING", "None"),
        "3": JobInfo("3", JobState.QUEUED, "PENDING", "DependencyNeverSatisfied"),
    }
    assert len(slurm_programs.calls()) == 1


def test_all_jobs_that_left_the_queue_are_one_call_more(slurm_programs: FakeSlurm) -> None:
    slurm_programs.queue("2_1|RUNNING|None")
    slurm_programs.tell(
        "accounting",
        account("1", "CANCELLED by 0", "10:00")
        + account("1.batch", "CANCELLED", "10:00")
        + account("2_0", "PREEMPTED", "10:00")
        + account("2_0", "COMPLETED", "10:05")
        + account("3", "NEWSTATE", "10:05"),
    )

    found = scheduler(slurm_programs).states({RUN: ["1", "2_0", "2_1", "3", "4"]})[RUN]

    assert {name: (info.state, info.word) for name, info in found.items()} == {
        "1": (JobState.ENDED, "CANCELLED by 0"),
        "2_0": (JobState.ENDED, "COMPLETED"),
        "2_1": (JobState.ACTIVE, "RUNNING"),
        "3": (JobState.UNKNOWN, "NEWSTATE"),
        "4": (JobState.MISSING, ""),
    }
    assert [call.split()[0] for call in slurm_programs.calls()] == ["squeue", "sacct"]


def test_a_cancelled_array_member_is_missing_not_running(slurm_programs: FakeSlurm) -> None:
    slurm_programs.queue("5_0|RUNNING|None", "5_2|RUNNING|None")

    found = scheduler(slurm_programs).states({RUN: ["5_0", "5_1", "5_2"]})[RUN]

    assert found["5_1"].state is JobState.MISSING


def test_when_squeue_does_not_answer_every_job_is_unknown(slurm_programs: FakeSlurm) -> None:
    slurm_programs.tell("down", DOWN)
    slurm_programs.tell("accounting", account("1", "COMPLETED", "10:00"))

    found = scheduler(slurm_programs).states({RUN: ["1", "2"]})[RUN]

    assert {info.state for info in found.values()} == {JobState.UNKNOWN}
    assert len(slurm_programs.calls()) == 1


def test_without_accounting_a_job_that_left_the_queue_is_missing(
    slurm_programs: FakeSlurm,
) -> None:
    slurm_programs.remove("sacct")
    slurm_programs.queue("1|RUNNING|None")

    found = SlurmScheduler(slurm_programs.alone).states({RUN: ["1", "2"]})[RUN]

    assert found["1"].state is JobState.ACTIVE
    assert found["2"] == JobInfo("2", JobState.MISSING, "", "no accounting")


def test_while_the_accounting_does_not_answer_the_end_of_a_job_is_unknown(
    slurm_programs: FakeSlurm,
) -> None:
    slurm_programs.replace("sacct", "echo 'sacct: error: Connection refused' >&2; exit 1")
    slurm_programs.queue("1|RUNNING|None")

    found = SlurmScheduler(slurm_programs.alone).states({RUN: ["1", "2"]})[RUN]

    assert found["2"] == JobInfo("2", JobState.UNKNOWN, "", LEFT_THE_QUEUE)


def test_where_accounting_is_switched_off_a_job_that_left_the_queue_is_missing(
    slurm_programs: FakeSlurm,
) -> None:
    words = "Slurm accounting storage is disabled"
    slurm_programs.replace("sacct", f"echo '{words}' >&2; exit 1")
    slurm_programs.queue()

    found = SlurmScheduler(slurm_programs.alone).states({RUN: ["2"]})[RUN]

    assert found["2"] == JobInfo("2", JobState.MISSING, "", "no accounting")


def test_thousands_of_ended_jobs_are_queried_in_parts(slurm_programs: FakeSlurm) -> None:
    slurm_programs.queue()
    ids = [str(number) for number in range(1, SACCT_IDS + 2)]

    found = scheduler(slurm_programs).states({RUN: ids})[RUN]

    assert len(slurm_programs.calls("sacct")) == 2
    assert len(found) == len(ids)


def test_without_slurm_every_job_is_unknown(slurm_programs: FakeSlurm) -> None:
    slurm_programs.remove("squeue")

    found = SlurmScheduler(slurm_programs.alone).states({RUN: ["1"]})[RUN]

    assert found["1"].state is JobState.UNKNOWN


@pytest.mark.parametrize("other", ["bash||", "med-tiny-1.pretrain||run=med-tiny-1,attempt=1"])
def test_a_job_id_that_another_job_has_now_is_not_that_job(
    slurm_programs: FakeSlurm, other: str
) -> None:
    """A controller that has lost its state counts job ids from 1 again."""
    name, _, mark = other.split("|")
    row = account("1", "RUNNING", "11:00").removesuffix("\n")
    slurm_programs.queue(f"1|RUNNING|None|{name}|1|{mark}")
    slurm_programs.tell("accounting", account("1", "FAILED", "10:00") + f"{row}|{name}|{mark}\n")

    found = scheduler(slurm_programs).states({RUN: ["1"]})[RUN]

    assert found["1"] == JobInfo("1", JobState.ENDED, "FAILED")


def test_the_expected_start_of_a_pending_job_is_known(slurm_programs: FakeSlurm) -> None:
    slurm_programs.queue(
        "1|PENDING|Priority||||||2026-01-01T10:00:00", "2|RUNNING|None||||||2026-01-01T10:00:00"
    )

    found = scheduler(slurm_programs).states({RUN: ["1", "2"]})[RUN]

    assert found["1"].start == time.mktime((2026, 1, 1, 10, 0, 0, 0, 1, -1))
    assert found["2"].start is None


# ---- cancelling


def test_a_foreign_job_with_a_recorded_id_is_not_cancelled(slurm_programs: FakeSlurm) -> None:
    slurm_programs.queue("1|RUNNING|None|bash|1", "2|RUNNING|None")

    scheduler(slurm_programs).cancel(RUN, ["1", "2"])

    assert slurm_programs.queued() == ["1"]


def test_cancelling_takes_jobs_out_of_the_queue_and_no_job_is_no_call(
    slurm_programs: FakeSlurm,
) -> None:
    slurm_programs.queue("1|PENDING|None", "2|RUNNING|None", "3_1|RUNNING|None")
    site = scheduler(slurm_programs)

    site.cancel(RUN, [])
    site.cancel(RUN, ["1", "3_1", "77"])

    assert slurm_programs.queued() == ["2"]
    assert len(slurm_programs.calls("scancel")) == 1


def test_thousands_of_jobs_are_cancelled_in_parts(slurm_programs: FakeSlurm) -> None:
    slurm_programs.queue(*(f"{number}|PENDING|None" for number in range(1200)))

    scheduler(slurm_programs).cancel(RUN, [str(number) for number in range(1200)])

    assert [len(call.split()) - 2 for call in slurm_programs.calls("scancel")] == [500, 500, 200]


def test_a_cancellation_that_slurm_refuses_has_its_reason_and_is_not_accepted(
    slurm_programs: FakeSlurm,
) -> None:
    denied = "scancel: error: Kill job error on job id 1: Access/permission denied"
    slurm_programs.replace("scancel", f"echo '{denied}' >&2; exit 1")
    slurm_programs.queue("1|RUNNING|None")
    accepted: list[str] = []

    with pytest.raises(SchedulerError) as caught:
        scheduler(slurm_programs).cancel(RUN, ["1"], lambda: accepted.append("1"))

    assert caught.value.message == (
        "Slurm refused to cancel: Kill job error on job id 1: Access/permission denied"
    )
    assert accepted == []


def test_a_cancellation_without_an_answer_is_an_error(slurm_programs: FakeSlurm) -> None:
    slurm_programs.tell("down", DOWN)

    with pytest.raises(SchedulerError, match=r"^scancel did not answer$"):
        scheduler(slurm_programs).cancel(RUN, ["1"])


def test_a_short_task_costs_two_slurm_calls_and_six_files(
    slurm_programs: FakeSlurm, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside its outputs; the sixth file is the job's log, which the stand-in keeps elsewhere."""
    monkeypatch.chdir(project)
    slurm_programs.tell("run")
    slurm_programs.tell("job-101", "JobId=101 JobState=RUNNING EndTime=2100-01-01T00:00:00\n")
    words = ("submit", "curate", "--cluster", "test-slurm", "--size", "tiny", "--json")

    result = CliRunner().invoke(main, [*words, "--runs-dir", str(project / "runs")])
    run = RunDir(Path(json.loads(result.stdout)["dir"]))
    wait_until(lambda: len(slurm_programs.ended()) == 2)

    assert slurm_programs.ended()["101"] == 0
    in_job = [call for call in slurm_programs.calls() if call.startswith(("srun", "scontrol"))]
    assert sorted(call.split()[0] for call in in_job) == ["scontrol", "srun"]
    assert slurm_programs.calls("squeue") == [
        shlex.join(queries.squeue_command()).replace("'", "")  # by the recovery job
    ]
    files = [path for path in run.stage("curate").rglob("[!.]*0*") if path.is_file()]
    assert sorted(str(path.relative_to(run.stage("curate"))) for path in files) == [
        "attempts/1/101_submission.sh",  # of the whole array
        "attempts/1/101_submitted.pkl",
        "attempts/1/ranks-00000.log",
        "attempts/1/recovery_job/102_0_result.pkl",
        "attempts/1/recovery_job/102_submission.sh",
        "attempts/1/recovery_job/102_submitted.pkl",
        "done/00000.json",
        "locks/00000",
        "spec/00000.json",
    ]
