"""Folders of a shared runs directory that this user cannot read affect no other run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ...conftest import Bench
from ...gate import full, only
from ...permissions import run_plainly

OTHER = "trial-tiny-00000000"


@contextmanager
def unreadable(path: Path) -> Iterator[None]:
    """Deny all access to a file or a folder."""
    mode = path.stat().st_mode
    path.chmod(0)
    try:
        yield
    finally:
        path.chmod(mode)


@pytest.mark.parametrize(
    "words",
    [
        ("status",),
        full(("status", "RUN")),
        full(("report", "RUN")),
        ("report",),
        full(("logs", "RUN")),
        full(("checkpoints", "RUN")),
        ("cancel", "RUN"),
        ("recover", "--once"),
    ],
    ids=" ".join,
)
def test_an_unreadable_folder_affects_no_other_run(
    meditron: Bench, finish: Callable[..., None], words: tuple[str, ...]
) -> None:
    meditron.submit(stage="curate")
    run = meditron.run()
    finish(run, "curate", 0, documents=1)
    run.attempt("curate", run.new_attempt("curate")).joinpath("ranks-00000.log").write_text(
        "read\n"
    )
    folders = [meditron.runs / name for name in ("archive", OTHER)]
    for folder in folders:
        folder.mkdir()
    words = tuple(run.name if word == "RUN" else word for word in words)

    with unreadable(folders[0]), unreadable(folders[1]):
        result = run_plainly(*words, "--runs-dir", str(meditron.runs))

    assert "Permission denied" not in result.stderr
    assert result.returncode == 0, result.stderr


UNREADABLE = {
    "the run": lambda run: run.root,
    "its record": lambda run: run.record,
    "its plan": lambda run: run.plan,
    "its events": lambda run: run.events,
    "its stages": lambda run: run.stage("curate"),
}


@pytest.mark.parametrize("what", only(("the run", "its events"), UNREADABLE))
def test_status_shows_an_unreadable_run_as_unknown_and_the_others_as_they_are(
    meditron: Bench, finish: Callable[..., None], what: str
) -> None:
    meditron.submit(stage="curate")
    meditron.submit("--new", stage="curate")
    first, second = meditron.run(0), meditron.run(1)
    finish(second, "curate", 0, documents=1)

    with unreadable(UNREADABLE[what](first)):
        table = run_plainly("status", "--runs-dir", str(meditron.runs))

    assert table.returncode == 0, table.stderr
    rows = {line.split()[0]: line for line in table.stdout.splitlines()}
    assert "succeeded" in rows[second.name]
    if what != "its record":  # which only resuming reads
        assert "unknown (Permission denied)" in rows[first.name]


@pytest.mark.parametrize("what", [full("the run"), "its events"])
def test_submit_makes_a_new_run_beside_an_unreadable_one_of_the_same_experiment(
    meditron: Bench, what: str
) -> None:
    meditron.submit(stage="curate")
    target = ("--cluster", "local", "--size", "tiny", "--runs-dir", str(meditron.runs))
    changed = ("--set", "curate.shards=3")

    with unreadable(UNREADABLE[what](meditron.run())):
        result = run_plainly("submit", "curate", *target, *changed, "--dry-run")

    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("what", [full("the run"), "its events", full("its stages")])
def test_an_unreadable_run_that_is_named_is_refused_in_one_sentence(
    meditron: Bench, what: str
) -> None:
    meditron.submit(stage="curate")
    run = meditron.run()

    with unreadable(UNREADABLE[what](run)):
        result = run_plainly("resume", run.name, "--runs-dir", str(meditron.runs))

    assert result.returncode == 2, result.stderr
    assert "Permission denied" in result.stderr.splitlines()[0]
    assert result.stderr.count("error: ") == 1
