"""Small models of transformers, each as a folder and as a checkpoint of ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from ...fork_server import ForkServer

MAKE = Path(__file__).with_name("make_pairs.py")


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory, fork_server: ForkServer) -> Path:
    """Return a folder per model with ``hf`` and ``checkpoints``, as ``make_pairs`` writes them."""
    folder = tmp_path_factory.mktemp("pairs")
    fork_server.run(MAKE.read_text(), folder, str(folder))
    return folder
