"""One test Slurm for the whole session, booted by the first test that asks for it."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .cluster import Cluster, ClusterError, ensure_installed, remove_orphans

# Not TMPDIR, which may be long: the paths of Unix sockets hold only some 100 characters.
PARENT = Path("/tmp")
PREFIX = "meditron-slurm-"


@pytest.fixture(scope="session")
def slurm(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A running cluster of four nodes with four fake GPUs each, and two without.

    For tests with the marker ``slurm``. Where Slurm can't be had they are skipped with the reason,
    and fail when ``CI`` is ``true``.
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
    """The cluster, with this process's own environment pointing at it (for submitit)."""
    for name in os.environ.keys() - slurm.env.keys():
        monkeypatch.delenv(name)
    for name, value in slurm.env.items():
        monkeypatch.setenv(name, value)
    return slurm
