"""Requests to vLLM and its answers, with a module in its place: vLLM does not run here."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from jobs.contract.errors import TaskError
from jobs.generation.backend import LENGTH, STOPPED, Generation, Sampling
from jobs.generation.vllm_backend import HINT, VllmBackend

FAKE = Path(__file__).parents[2] / "fake_vllm"


@pytest.fixture
def engine(monkeypatch) -> Iterator[None]:
    """Install a module vllm for a test."""
    monkeypatch.syspath_prepend(str(FAKE))
    yield
    sys.modules.pop("vllm", None)


def test_requests_have_seeds_of_their_own_and_samples_come_in_their_order(tmp_path, engine):
    (tmp_path / "config.json").write_text('{"dtype": "float32"}')
    alive: list[int] = []
    model = VllmBackend(tmp_path, tensor=4, alive=lambda: alive.append(1), environ={})
    sampling = Sampling(2, 0.8, 1024, ("###",), (7,), 1.0)

    found = model.generate([[5], [6]], sampling, [65536, 131072])

    fake = model._engine
    assert fake.settings["dtype"] == "float32"  # vLLM would halve it
    assert fake.settings["tensor_parallel_size"] == 4
    assert [params.seed for _, params in fake.requests] == [65536, 131072]
    prompt, params = fake.requests[0]
    assert (prompt, asdict(params)) == (
        {"prompt_token_ids": [5]},
        {
            "n": 2,
            "temperature": 0.8,
            "top_p": 1.0,
            "seed": 65536,
            "stop": ["###"],
            "stop_token_ids": [7],
            "max_tokens": 1024,
            "frequency_penalty": 1.0,
            "logprobs": 0,
        },
    )
    assert found[1] == [
        Generation((6, 0), "text 0", LENGTH, -1.5),
        Generation((6, 1), "text 1", STOPPED, -1.5),
    ]
    assert len(alive) == 3


@pytest.mark.parametrize(("value", "invariant"), [("1", True), ("0", False), (None, False)])
def test_whether_batches_change_tokens_is_recorded(tmp_path, engine, value, invariant):
    (tmp_path / "config.json").write_text('{"torch_dtype": "bfloat16"}')
    environ = {} if value is None else {"VLLM_BATCH_INVARIANT": value}

    flags = VllmBackend(tmp_path, tensor=1, alive=lambda: None, environ=environ).flags

    assert (flags["batch_invariant"], flags["dtype"]) == (invariant, "bfloat16")


def test_without_vllm_the_error_names_the_extra(tmp_path):
    with pytest.raises(TaskError, match=r"^vllm cannot be imported") as error:
        VllmBackend(tmp_path, tensor=1, alive=lambda: None)
    assert error.value.hint == HINT
