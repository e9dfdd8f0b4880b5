"""Commands about a run while its scheduler does not respond: their hints lead to a command that
works once it does.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from click.testing import CliRunner, Result

from jobs.contract import attempt_history
from jobs.contract.events import append_event
from jobs.contract.files import write_json
from meditron_cli.main import main
from meditron_cli.scheduler.local import LocalScheduler, job_file
from meditron_cli.scheduler.slurm import SlurmScheduler

from ... import fake_slurm
from ...conftest import Bench
from ...fake_slurm import FakeSlurm
from ...plans import profile_of

DOWN = "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n"
NO_ANSWER = "sbatch: error: Batch job submission failed: Unable to contact slurm controller\n"
REFUSED = "sbatch: error: Batch job submission failed: Invalid account\n"
COMMAND = re.compile(r"hint: `meditron ([^`]*)`")

Meditron = Callable[[Sequence[str]], Result]


@pytest.fixture
def programs(meditron: Bench) -> FakeSlurm:
    """Return Slurm's stand-ins, which do not answer."""
    programs = fake_slurm.install(meditron.folder / "slurm")
    programs.tell("down", DOWN)
    return programs


@pytest.fixture
def command(meditron: Bench, programs: FakeSlurm) -> Meditron:
    """Return `meditron` on the stand-ins."""
    services = replace(meditron.services(), make=lambda kind: SlurmScheduler(programs.environ))
    return lambda words: CliRunner().invoke(main, list(words), obj=services)


SUBMIT = ("submit", "pipeline", "--cluster", str(profile_of("test-slurm")), "--size", "tiny")


def hinted(result: Result) -> list[str]:
    """Return the command that a hint names."""
    match = COMMAND.search(result.stderr)
    assert match, result.stderr
    return shlex.split(match[1])


@pytest.mark.parametrize("answer", [NO_ANSWER, REFUSED])
@pytest.mark.parametrize("words", [["cancel"], ["cancel", "--save"], ["resume"], ["rm", "--yes"]])
def test_hints_after_an_unconfirmed_submission_lead_to_a_command_that_works(
    meditron: Bench, programs: FakeSlurm, command: Meditron, words: list[str], answer: str
) -> None:
    programs.tell("refuse-1", answer)
    assert command(SUBMIT).exit_code == 3
    name = meditron.run().name

    first = command([*words, name])
    expected = "cancel" if words[0] == "rm" else words[0]
    again = command(hinted(first))
    (programs.state / "down").unlink()
    last = command(hinted(again))

    assert (first.exit_code, again.exit_code) == (2 if words[0] == "rm" else 3, 3)
    assert hinted(first)[0] == hinted(again)[0] == expected
    assert "Slurm d" in again.stderr
    assert last.exit_code == 0, last.stderr
    assert attempt_history.read(meditron.run()).unanswered == []
    if words[0] == "rm":
        assert command([*words, name]).exit_code == 0
        assert list(meditron.runs.iterdir()) == []


@pytest.mark.parametrize("words", [["cancel"], ["cancel", "--save"], ["resume"], ["rm"]])
def test_a_hint_about_jobs_that_may_run_names_the_same_command(
    meditron: Bench, programs: FakeSlurm, command: Meditron, words: list[str]
) -> None:
    (programs.state / "down").unlink()
    assert command(SUBMIT).exit_code == 0
    programs.tell("down", DOWN)

    result = command([*words, meditron.run().name])

    again = hinted(result)
    assert again[: again.index(meditron.run().name)] == words


def test_a_refused_stage_names_the_jobs_of_earlier_stages_that_cannot_be_cancelled(
    meditron: Bench, programs: FakeSlurm, command: Meditron
) -> None:
    programs.tell("refuse-3", REFUSED)

    result = command(SUBMIT)

    name = meditron.run().name
    assert result.exit_code == 3
    assert result.stderr.startswith(
        f"error: sbatch refused tokenize: Invalid account; jobs named {name}.tokenize may be "
        "queued all the same; scancel did not answer, so that job 101 and 1 more of earlier stages "
        "may stay queued\n"
    )
    assert hinted(result)[:2] == ["resume", name]


def test_a_job_that_left_the_queue_does_not_prevent_a_removal(
    meditron: Bench, programs: FakeSlurm, command: Meditron
) -> None:
    """The accounting does not answer, so that its end is unknown; it certainly does not run."""
    (programs.state / "down").unlink()
    assert command(SUBMIT).exit_code == 0
    programs.queue()
    programs.replace("sacct", "exit 1")

    result = command(["rm", "--yes", meditron.run().name])

    assert result.exit_code == 0, result.stderr


@pytest.mark.parametrize("words", [["cancel"], ["cancel", "--save"], ["resume"]])
def test_a_hint_about_a_submission_on_another_machine_names_the_same_command(
    meditron: Bench, words: list[str]
) -> None:
    meditron.submit(stage="curate")
    run = meditron.run()
    append_event(run, "intent", stage="curate", attempt=2, indices=[0], scheduler="local")
    write_json(job_file(run.root, "curate", 2), {"host": "elsewhere"})
    services = replace(meditron.services(), make=lambda kind: LocalScheduler())

    result = CliRunner().invoke(main, [*words, run.name], obj=services)

    assert result.exit_code == 3
    assert result.stderr.startswith("error: curate was being submitted on elsewhere")
    again = hinted(result)
    assert again[: again.index(run.name)] == words
