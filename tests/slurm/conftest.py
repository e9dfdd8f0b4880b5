"""One test Slurm for the whole session, booted by the first test that asks for it."""

from __future__ import annotations

import os
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
    try:
        cluster.start(owner=os.getpid())
        yield cluster
    finally:
        cluster.stop()
        if request.session.testsfailed == failed_before:
            cluster.remove()


@pytest.fixture
def slurm_environment(slurm: Cluster, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """The cluster, with this process's own environment pointing at it (for submitit)."""
    for name in os.environ.keys() - slurm.env.keys():
        monkeypatch.delenv(name)
    for name, value in slurm.env.items():
        monkeypatch.setenv(name, value)
    return slurm
