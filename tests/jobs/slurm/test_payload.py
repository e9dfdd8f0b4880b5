"""The functions that batch steps call by name."""

from __future__ import annotations

import pickle

import pytest

from jobs.slurm import payload
from jobs.slurm.payload import Payload


@pytest.mark.parametrize("named", [payload.TASK, payload.RECOVERY])
def test_each_target_is_a_function(named: Payload) -> None:
    module, _, name = named.target.partition(":")

    assert callable(getattr(__import__(module, fromlist=[name]), name))


def test_a_pickled_payload_calls_its_target_with_its_arguments() -> None:
    carried = pickle.loads(pickle.dumps(Payload("os:putenv")))

    with pytest.raises(TypeError, match="putenv"):
        carried("one", "two", "three")
