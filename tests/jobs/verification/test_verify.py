"""A folder of transformers beside our checkpoint of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ...engine.parity import MODELS
from ...fork_server import ForkServer

pytestmark = pytest.mark.engine

VERIFY = """
import json, sys
from pathlib import Path
from jobs.contract.errors import TaskError
from jobs.verification.verify import Request, verify
from tests.jobs.verification.pairs import spec_of, tokenizer_of
folder = Path(sys.argv[1])
for asked in json.load(sys.stdin):
    name, step = asked.pop("name"), asked.pop("step", 0)
    weights, base = asked.pop("weights", name), asked.pop("base", None)
    checkpoints = folder / asked.pop("checkpoints", name) / "checkpoints"
    free = asked.pop("free", 1 << 40)
    request = Request(
        folder / weights / "hf", checkpoints / f"iter_{step:07d}", spec_of(name),
        tokenizer_of(folder, name), base=base and checkpoints / base,
        available=lambda: free, **asked,
    )
    try:
        print(json.dumps(verify(request).to_json()))
    except TaskError as error:
        print(json.dumps({"error": error.message}))
"""

Verify = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def verify(pairs: Path, tmp_path: Path, fork_server: ForkServer) -> Verify:
    """Verify pairs in one process and return the results."""

    def run(*asked: dict[str, Any]) -> list[dict[str, Any]]:
        written = fork_server.run(VERIFY, tmp_path, str(pairs), stdin=json.dumps(asked))
        return [json.loads(line) for line in written.splitlines() if line.startswith("{")]

    return run


def test_every_family_computes_the_same_on_both_sides(verify: Verify) -> None:
    results = verify(*({"name": name} for name in MODELS))

    for name, result in zip(MODELS, results, strict=True):
        assert result["logits"]["max"] < 1e-5, name
        assert result["logits"]["agreement"] == 1, name
        assert result["logits"]["positions"] > 1000
        assert result["generation"]["equal"] == 3, name
        assert result["tensors"]["weights"] >= 20, name
        assert result["problems"] == [], name
        assert result["added_rows"] is None


def test_a_model_stored_in_fewer_bits_is_compared_with_rounded_weights(verify: Verify) -> None:
    (result,) = verify({"name": "narrow"})

    assert result["rounded_to"] == ["bfloat16"]
    assert result["logits"]["max"] < 1e-5
    assert result["generation"]["equal"] == 3


def test_one_changed_weight_exceeds_the_tolerance(pairs: Path, verify: Verify) -> None:
    from safetensors.torch import load_file, save_file

    changed = pairs / "changed" / "hf"
    shutil.copytree(pairs / "llama 3.1" / "hf", changed)
    tensors = load_file(changed / "model.safetensors")
    tensors["model.layers.1.self_attn.k_proj.weight"][3, 5] += 0.5
    save_file(tensors, changed / "model.safetensors")

    strict, lenient = verify(
        {"name": "llama 3.1", "weights": "changed"},
        {"name": "llama 3.1", "weights": "changed", "tolerance": 50.0},
    )

    assert strict["logits"]["max"] > 1e-3
    (problem,) = strict["problems"]
    assert problem.startswith("logits differ by up to")
    assert lenient["problems"] == []


def test_swapped_tensors_of_equal_shape_exceed_the_tolerance(pairs: Path, verify: Verify) -> None:
    from safetensors.torch import load_file, save_file

    swapped = pairs / "swapped" / "hf"
    shutil.copytree(pairs / "llama 2" / "hf", swapped)
    tensors = load_file(swapped / "model.safetensors")
    one, other = (f"model.layers.0.mlp.{name}_proj.weight" for name in ("gate", "up"))
    tensors[one], tensors[other] = tensors[other], tensors[one]
    save_file(tensors, swapped / "model.safetensors")

    (result,) = verify({"name": "llama 2", "weights": "swapped"})

    assert result["problems"]
    assert result["logits"]["agreement"] < 0.9


@pytest.mark.parametrize(
    ("name", "rule"), [("grown", "repeat-last-row"), ("mean", "mean"), ("copy", "copy:A")]
)
def test_rows_of_added_tokens_are_compared_with_the_rule(
    verify: Verify, name: str, rule: str
) -> None:
    (result,) = verify({"name": name})

    assert result["added_rows"] == {"first": 257, "last": 259, "expected": rule, "equal": True}
    assert result["rows"] == 257
    assert result["problems"] == []


def test_rows_of_added_tokens_that_break_the_rule_are_a_problem(verify: Verify) -> None:
    (result,) = verify({"name": "wrong rows"})

    assert result["logits"]["max"] < 1e-5
    assert result["problems"] == ["rows 257 to 259 of the vocabulary do not follow new_rows (mean)"]


def test_a_trained_checkpoint_has_the_rates_of_its_base_beside_its_own(verify: Verify) -> None:
    (result,) = verify({"name": "grown", "step": 4, "base": "iter_0000000"})

    assert list(result["generation"]["rates"]) == ["weights", "checkpoint", "base"]
    assert (
        result["generation"]["continuations"]["base"]
        == (result["generation"]["continuations"]["weights"])
    )
    assert result["added_rows"]["expected"] == ""
    assert "rows 257 to 259 of the vocabulary" in result["not_verified"]
    assert result["problems"]


def test_generation_of_a_model_without_enough_memory_is_reported_as_not_verified(
    verify: Verify,
) -> None:
    (result,) = verify({"name": "qwen 2", "free": 1 << 10})

    assert result["generation"] is None
    assert result["not_verified"][-1].startswith("generation, which takes 0.0 GiB of memory")
    assert result["problems"] == []


def test_a_computation_in_bf16_differs_by_its_rounding(verify: Verify) -> None:
    (result,) = verify({"name": "llama 2", "precision": "bf16", "tolerance": 1.0})

    assert 1e-4 < result["logits"]["mean"] < 0.1
    assert result["problems"] == []
    assert "a computation in fp32" in result["not_verified"]


def test_another_model_and_unusable_texts_are_refused(verify: Verify) -> None:
    wide, text, empty, missing = verify(
        {"name": "llama 2", "weights": "wide heads"},
        {"name": "grown", "texts": {"notes.txt": "See <EOD>", "x": ""}},
        {"name": "llama 2", "texts": {"notes.txt": ""}},
        {"name": "llama 2", "step": 4},
    )

    assert "wide heads/hf: model." in wide["error"]
    assert text["error"].startswith("x: it is empty")
    assert empty["error"].startswith("notes.txt: it is empty")
    assert missing["error"].endswith("meditron.json is missing: it was never finished")


def test_a_damaged_checkpoint_is_refused(pairs: Path, verify: Verify) -> None:
    shutil.copytree(pairs / "llama 2" / "checkpoints", pairs / "damaged" / "checkpoints")
    for file in (pairs / "damaged/checkpoints/iter_0000000").glob("*.distcp"):
        file.write_bytes(bytes(file.stat().st_size))

    (result,) = verify({"name": "llama 2", "checkpoints": "damaged"})

    assert "the right size, but its content has changed" in result["error"]
