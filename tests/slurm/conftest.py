"""One test Slurm per session, booted by the first test that needs it."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .. import bench
from . import faults
from .cluster import Cluster, ClusterError, ensure_installed, remove_orphans
from .faults import Laboratory, Truth

# Not TMPDIR, which may be long: the paths of Unix sockets hold only some 100 characters.
PARENT = Path("/tmp")
PREFIX = "meditron-slurm-"
TABLE = pytest.StashKey[list[faults.Row]]()
FAULTS = 12
"""Least number of faults of which the accuracy is recorded."""


@pytest.fixture(scope="session")
def slurm(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Yield a running cluster of six nodes with four fake GPUs each, and two without.

    For tests with the marker ``slurm``. Where Slurm cannot be installed they are skipped with the
    reason, and fail when ``CI`` is ``true``.
    """
    try:
        ensure_installed()
    except ClusterError as error:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(str(error))
    remove_orphans(PARENT, PREFIX)
    cluster = Cluster(Path(tempfile.mkdtemp(prefix=PREFIX, dir=PARENT)))
    failed_before = request.session.testsfailed
    # A CI that gives up on a run sends SIGTERM, which would otherwise end Python at once.
    earlier = signal.signal(signal.SIGTERM, signal.default_int_handler)
    cluster.start(owner=os.getpid())
    try:
        yield cluster
    finally:
        cluster.stop()
        signal.signal(signal.SIGTERM, earlier)
        if request.session.testsfailed == failed_before:
            cluster.remove()
        else:  # the next session's `remove_orphans` takes it away
            writer = request.config.get_terminal_writer()
            writer.line(f"\nlogs of the test Slurm, until the next run: {cluster.folder / 'log'}")


@pytest.fixture
def slurm_environment(slurm: Cluster, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """Return the cluster, with this process's own environment pointing at it (for submitit)."""
    for name in os.environ.keys() - slurm.env.keys():
        monkeypatch.delenv(name)
    for name, value in slurm.env.items():
        monkeypatch.setenv(name, value)
    return slurm


# ---- faults


@pytest.fixture(scope="session")
def rows(request: pytest.FixtureRequest) -> list[Callable[[], faults.Row]]:
    """Return the measurements of the fault tests."""
    return request.config.stash.setdefault(faults.ROWS, [])


@pytest.fixture(scope="session")
def laboratory(
    slurm: Cluster,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
    rows: list[Callable[[], faults.Row]],
) -> Laboratory:
    """Return a desk with tokens that all trials share."""
    made = faults.make_laboratory(tmp_path_factory.mktemp("faults"), slurm, rows)
    request.config.stash[faults.MADE] = made
    return made


@pytest.fixture(scope="module", autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Cancel the jobs that a failed fault test left, so that they hinder no other module."""
    yield
    if made := request.config.stash.get(faults.MADE, None):
        made.cancel()


@pytest.fixture(scope="session")
def truth(laboratory: Laboratory) -> Truth:
    """Loss and samples by step of an undisturbed training."""
    trial = laboratory.begin("undisturbed")
    trial.wait_end()
    return faults.truth_of(trial)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Complete the measurements while the run directories are there."""
    stash = session.config.stash
    stash[TABLE] = [row() for row in stash.get(faults.ROWS, [])]


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Show the measurements of the fault tests."""
    if rows := config.stash.get(TABLE, []):
        terminalreporter.section("faults: seconds to detect and to resume, steps trained again")
        for line in faults.table(rows):
            terminalreporter.write_line(line)
        figures = faults.accuracy(rows)
        terminalreporter.section(f"diagnoses of {len(rows)} faults")
        for line in faults.confusion(rows):
            terminalreporter.write_line(line)
        for name, value in figures.items():
            terminalreporter.write_line(f"{name}: {value:.3f}")
        for row in rows:
            if (row.cause, row.excluded) != (row.injected, row.blamed):
                terminalreporter.write_line(f"differs: {row}")
        if len(rows) >= FAULTS:
            bench.record(figures)
