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
        assert result["tensors"]["compared"] >= 20, name
        assert result["tensors"]["bytes"] >= 1 << 16, name
        assert result["tensors"]["different"] == [], name
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
    logits, tensor = strict["problems"]
    assert logits.startswith("logits differ by up to")
    assert tensor == (
        f"1 of {strict['tensors']['compared']} tensors have other values, by up to 0.5: "
        "model.layers.1.self_attn.k_proj.weight"
    )
    assert lenient["problems"] == [tensor]


def test_a_row_that_no_text_uses_is_compared(pairs: Path, verify: Verify) -> None:
    """Token 1 is a control character: neither a text nor a greedy continuation has it."""
    from safetensors.torch import load_file, save_file

    changed = pairs / "unused row" / "hf"
    shutil.copytree(pairs / "llama 2" / "hf", changed)
    tensors = load_file(changed / "model.safetensors")
    tensors["model.embed_tokens.weight"][1, 0] += 2**-10
    save_file(tensors, changed / "model.safetensors")

    (result,) = verify({"name": "llama 2", "weights": "unused row"})

    assert result["logits"]["max"] < 1e-5
    assert result["tensors"]["different"] == ["model.embed_tokens.weight"]
    assert result["tensors"]["largest"] == pytest.approx(2**-10, rel=1e-3)
    assert result["problems"][0].endswith("model.embed_tokens.weight")


def test_a_copy_of_a_tied_embedding_that_differs_is_named(pairs: Path, verify: Verify) -> None:
    from safetensors.torch import load_file, save_file

    for name, step in (("copied", 0.0), ("untied", 0.5)):
        changed = pairs / name / "hf"
        shutil.copytree(pairs / "llama 3.2" / "hf", changed)
        tensors = load_file(changed / "model.safetensors")
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
        tensors["lm_head.weight"][7, 7] += step
        save_file(tensors, changed / "model.safetensors")

    copied, untied = verify(
        {"name": "llama 3.2", "weights": "copied"}, {"name": "llama 3.2", "weights": "untied"}
    )

    assert copied["problems"] == []
    assert untied["tensors"]["different"] == ["lm_head.weight"]
    assert untied["problems"]


def test_ids_of_an_export_that_are_not_those_of_the_run_are_named(
    pairs: Path, verify: Verify
) -> None:
    export = pairs / "other ids" / "hf"
    shutil.copytree(pairs / "llama 2" / "hf", export)
    config = json.loads((export / "config.json").read_text())
    roles = {"bos_token_id": None, "eos_token_id": 256, "pad_token_id": None}
    (export / "config.json").write_text(json.dumps({**config, **roles}))
    generation = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 256}
    (export / "generation_config.json").write_text(json.dumps(generation))

    mine, base = verify(
        {"name": "llama 2", "weights": "other ids", "exported": True},
        {"name": "llama 2", "weights": "other ids"},
    )

    assert mine["problems"] == [
        "bos_token_id in generation_config.json is 1 instead of null",
        "eos_token_id in generation_config.json is 2 instead of 256",
    ]
    assert base["problems"] == []
    assert "ids in generation_config.json, which are the base model's" in base["not_verified"]


def test_swapped_tensors_of_equal_shape_exceed_the_tolerance(pairs: Path, verify: Verify) -> None:
    from safetensors.torch import load_file, save_file

    swapped = pairs / "swapped" / "hf"
    shutil.copytree(pairs / "llama 2" / "hf", swapped)
    tensors = load_file(swapped / "model.safetensors")
    one, other = (f"model.layers.0.mlp.{name}_proj.weight" for name in ("gate", "up"))
    tensors[one], tensors[other] = tensors[other], tensors[one]
    save_file(tensors, swapped / "model.safetensors")

    result, right = verify({"name": "llama 2", "weights": "swapped"}, {"name": "llama 2"})

    assert result["problems"]
    assert result["logits"]["agreement"] < 0.9
    continued = result["generation"]["continuations"]
    assert result["generation"]["equal"] < 3
    assert continued["checkpoint"] == right["generation"]["continuations"]["checkpoint"]
    assert continued["weights"] != continued["checkpoint"]


@pytest.mark.parametrize(
    ("name", "rule"),
    [("grown", "repeat-last-row"), ("mean", "mean"), ("copy", "copy:A"), ("unused rows", "mean")],
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
    assert "model.embed_tokens.weight" in result["tensors"]["different"]
    (problem,) = result["problems"]  # training changes tensors, which is shown and no problem
    assert problem.startswith("logits differ")


def test_generation_without_enough_memory_or_time_is_reported_as_not_verified(
    verify: Verify,
) -> None:
    results = verify(
        {"name": "qwen 2", "free": 1 << 10}, {"name": "qwen 2", "generation_seconds": 0.0}
    )

    reasons = [result["not_verified"][-1] for result in results]
    assert reasons[0].startswith("generation, which takes 0.0 GiB of memory")
    assert reasons[1].startswith("generation, which would take about ")
    assert [result["generation"] for result in results] == [None, None]
    assert [result["problems"] for result in results] == [[], []]


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
