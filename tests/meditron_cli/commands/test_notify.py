"""`meditron notify`, and what a submission reports about receivers."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from jobs.contract.files import read_json
from jobs.notification import __main__ as sending

from ...conftest import Bench
from ...message_servers import PATIENT, http_server, need, program
from ...ranks import PATIENCE

NOTIFY = """
notify:
  - {to: PAGER}
  - {to: TEAM, events: [failed]}
"""
SECRET = "3ccdd113474722377935511fc85d3dd4"


@pytest.fixture
def told(meditron: Bench, project: Path) -> Bench:
    """Return `meditron` with two receivers in a profile's secrets file: a command and a chat."""
    page = program(project / "page", f"cat >>{project}/told")
    write_secrets(project, f"PAGER=command:{page}", f"TEAM=mmost://127.0.0.1:9/{SECRET}")
    assert meditron("clusters", "local", "--copy").exit_code == 0
    profile = project / "clusters/local.yaml"
    profile.write_text(profile.read_text() + f"\nenvironment:\n  secrets_file: {project}/secrets\n")
    with (project / "experiment.yaml").open("a") as file:
        file.write(NOTIFY)
    return meditron


def write_secrets(project: Path, *lines: str) -> None:
    (project / "secrets").write_text("\n".join(lines) + "\n")
    (project / "secrets").chmod(0o600)


def notify(bench: Bench, *words: str):
    return bench("notify", "--cluster", "clusters/local.yaml", "--size", "tiny", *words)


def submit(bench: Bench):
    return bench("submit", "pipeline", "--cluster", "clusters/local.yaml", "--size", "tiny")


def test_a_secrets_file_that_others_may_read_is_refused(told: Bench, project: Path) -> None:
    (project / "secrets").chmod(0o644)

    result = notify(told)

    assert result.exit_code == 2
    assert result.stderr == (
        f"error: {project}/secrets: others may read this secret\n"
        f"hint: `chmod 600 {project}/secrets`\n"
    )


def test_receivers_are_listed_by_name_and_never_by_address(told: Bench) -> None:
    listed = notify(told)
    rows = json.loads(notify(told, "--json").stdout)["receivers"]

    assert listed.exit_code == 0, listed.output
    assert [(row["to"], row["by"], row["events"]) for row in rows] == [
        ("PAGER", "command", ["stopped", "failed", "finished", "node_excluded", "alarm"]),
        ("TEAM", "service", ["failed"]),
    ]
    assert SECRET not in listed.output


def test_a_secrets_file_of_another_system_is_read(told: Bench, project: Path) -> None:
    """With the mark and the ends of lines that editors of Windows write."""
    secrets = project / "secrets"
    secrets.write_bytes(b"\xef\xbb\xbf" + secrets.read_bytes().replace(b"\n", b"\r\n"))

    assert [row["by"] for row in json.loads(notify(told, "--json").stdout)["receivers"]] == [
        "command",
        "service",
    ]


def test_a_test_is_sent_to_each_receiver(told: Bench, project: Path) -> None:
    need("apprise")
    with http_server() as received:
        page = f"PAGER=command:{project}/page"
        write_secrets(project, page, f"TEAM=mmost://127.0.0.1:{received.port}/{SECRET}?{PATIENT}")
        result = notify(told, "--test")

    assert result.exit_code == 0, result.output
    assert "A test by " in (project / "told").read_text()
    assert "A test by " in received.bodies[0]


def test_a_receiver_that_is_not_reached_fails_the_test_alone(told: Bench, project: Path) -> None:
    need("apprise")

    result = notify(told, "--test")

    assert result.exit_code == 1
    assert result.stderr.startswith("error: TEAM: not delivered: the service was not reached")
    assert "hint: " in result.stderr
    assert SECRET not in result.output
    assert "A test by " in (project / "told").read_text()


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("", "notify[1].to: {secrets} has no line TEAM=…, the address of this receiver"),
        (
            f"TEAM=example.org/{SECRET}",
            "notify[1].to: the address TEAM in {secrets} has none of the forms "
            "mailto:NAME@HOST, command:PROGRAM or the URL of a service "
            "(mailtos://…, slack://…, ntfy://…)",
        ),
        (
            f"TEAM=gopher://example.org/{SECRET}",
            "notify[1].to: the address TEAM in {secrets} is the URL of no service of apprise",
        ),
    ],
)
def test_an_address_that_cannot_be_used_is_refused_before_anything_is_submitted(
    told: Bench, project: Path, line: str, sentence: str
) -> None:
    need("apprise")
    write_secrets(project, f"PAGER=command:{project}/page", line)
    expected = f"error: {sentence.format(secrets=project / 'secrets')}"

    for result in (notify(told), submit(told)):
        assert result.exit_code == 2
        assert result.stderr.splitlines()[0] == expected
        assert SECRET not in result.output
    assert not told.runs.exists()


def test_a_profile_without_a_secrets_file_is_refused(meditron: Bench, project: Path) -> None:
    with (project / "experiment.yaml").open("a") as file:
        file.write(NOTIFY)

    result = meditron("notify", "--cluster", "local", "--size", "tiny")

    assert result.exit_code == 2
    assert result.stderr == (
        "error: notify: the profile of local has no environment.secrets_file, which has the "
        "addresses\n"
        "hint: `meditron explain cluster.environment.secrets_file --cluster local` shows the file "
        "of addresses\n"
    )


def test_an_experiment_without_receivers_is_refused_with_the_command_that_explains(
    meditron: Bench,
) -> None:
    result = meditron("notify", "--cluster", "local", "--size", "tiny")

    assert result.exit_code == 2
    assert result.stderr == (
        "error: the experiment has no receivers of notifications\n"
        "hint: `meditron explain notify` shows the keys of a receiver\n"
    )
    assert meditron("explain", "notify").exit_code == 0


@pytest.mark.parametrize(
    ("notify", "sentence"),
    [
        ("[{to: me@example.org}]", "notify[0].to: expected the name of a line in the profile's"),
        ("[{to: TEAM, events: [lunch]}]", "notify[0].events[0]: "),
        ("[{to: TEAM, events: []}]", "notify[0].events: lists no event; leave the receiver out"),
        ("[{to: A}, {to: A}]", "notify[1].to: A is listed twice; give one all of its events"),
    ],
)
def test_a_wrong_receiver_is_one_sentence_with_its_place(
    meditron: Bench, project: Path, notify: str, sentence: str
) -> None:
    with (project / "experiment.yaml").open("a") as file:
        file.write(f"\nnotify: {notify}\n")

    result = meditron("notify", "--cluster", "local", "--size", "tiny")

    assert result.exit_code == 2
    assert f": {sentence}" in result.stderr.splitlines()[0]


@pytest.mark.parametrize("written", ["{{to: '{}'}}", "'{}'", "{{to: TEAM, events: '{}'}}"])
def test_an_address_in_the_experiment_is_refused_without_it(
    meditron: Bench, project: Path, written: str
) -> None:
    with (project / "experiment.yaml").open("a") as file:
        file.write(f"\nnotify: [{written.format('https://chat.example.org/' + SECRET)}]\n")

    result = meditron("notify", "--cluster", "local", "--size", "tiny")

    assert result.exit_code == 2
    assert ": notify[0]" in result.stderr.splitlines()[0]
    assert SECRET not in result.output


def test_a_run_keeps_names_of_addresses_alone(told: Bench, project: Path) -> None:
    result = submit(told)
    assert result.exit_code == 0, result.output
    run = told.run()

    assert read_json(run.notify)["targets"][1] == {"to": "TEAM", "events": ["failed"]}
    files = [path for path in run.root.rglob("*") if path.is_file()]
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]


def test_another_receiver_continues_the_run_and_none_clears_it(told: Bench, project: Path) -> None:
    submit(told)
    run = told.run()
    experiment = project / "experiment.yaml"

    experiment.write_text(experiment.read_text().replace(NOTIFY, "\nnotify: [{to: PAGER}]\n"))
    submit(told)
    assert [item["to"] for item in read_json(run.notify)["targets"]] == ["PAGER"]

    experiment.write_text(experiment.read_text().partition("\nnotify:")[0] + "\n")
    submit(told)
    assert not run.notify.exists()
    assert len(list(told.runs.glob("*"))) == 1


def test_a_run_shows_what_waits_and_why(told: Bench, project: Path, fail) -> None:
    submit(told)
    (project / "page").write_text("#!/bin/sh\nexit 9\n")
    run = told.run()
    notify_only = run.notify.read_text().replace('"TEAM"', '"PAGER2"')
    run.notify.write_text(notify_only)
    fail(run, "curate", 0)

    sending.send_when_free(run, PATIENCE)

    assert "1 waiting; its program ended with 9" in told("notify", run.name).stdout
    rows = json.loads(told("notify", run.name, "--json").stdout)["receivers"]
    assert (rows[0]["waiting"], rows[0]["error"]) == (1, "its program ended with 9")
    assert rows[1]["error"] == f"{project}/secrets has no line PAGER2=…"
    (project / "page").write_text("#!/bin/sh\ncat >/dev/null\n")
    fail(run, "tokenize", 0)
    sending.send_when_free(run, PATIENCE)
    assert re.search(r"sent \d{4}-\d\d-\d\d ", told("notify", run.name).stdout)


def test_damaged_receivers_of_a_run_are_an_error_until_a_resume_writes_them(
    told: Bench, project: Path
) -> None:
    submit(told)
    run = told.run()
    whole = run.notify.read_text()
    run.notify.write_text(whole[:40])

    result = told("notify", run.name)

    assert result.exit_code == 2
    error, hint = result.stderr.splitlines()
    assert error.startswith(f"error: {run.notify}: not JSON (")
    assert hint == f"hint: `{run.command('resume')}` writes it again"
    assert told("resume", run.name).exit_code == 0
    assert run.notify.read_text() == whole


@pytest.mark.parametrize(
    "words",
    [(), ("--cluster", "local"), ("--size", "tiny"), ("trial", "--set", "seed=1")],
)
def test_a_run_or_an_experiment_is_named(meditron: Bench, words: tuple[str, ...]) -> None:
    result = meditron("notify", *words)

    assert result.exit_code == 2
    assert result.stderr.startswith("error: name a run, or an experiment by --cluster and --size\n")
