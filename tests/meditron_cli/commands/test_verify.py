"""`meditron verify`: names of both sides, output and exit codes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.contract.files import write_json
from jobs.contract.rundir import RunDir

from ...conftest import Bench
from ...fork_server import ForkServer
from ...jobs.checkpoint_files import write_checkpoint
from ...jobs.verification.pairs import spec_of, tokenizer_of
from ...jobs.verification.runs import write_run
from ...model_specs import tokenizer_ref

ROOT = Path(__file__).parents[3]

VERIFY = """
import sys
from meditron_cli.main import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    print("exit", end.code)
"""

SIGNALLED = """
import os, signal, sys
from meditron_cli.__main__ import run

leases, steps = sys.argv.pop(1), []

def watch(event, arguments):
    if event == "os.rename" and leases in str(arguments[1]):
        steps.append("leased")
    elif event == "open" and steps == ["leased"] and "/iter_0000000/" in str(arguments[0]):
        steps.append("signalled")
        os.kill(os.getpid(), signal.SIGTERM)

sys.addaudithook(watch)
run()
"""
"""Runs `meditron`, which gets a signal as it reads the checkpoint that it has leased."""

Verify = Callable[..., tuple[int, str]]


@pytest.fixture
def runs(tmp_path: Path, pairs: Path) -> Path:
    """Return a runs directory with the run `trial` of a grown model."""
    root = tmp_path / "runs" / "trial"
    shutil.copytree(pairs / "grown" / "checkpoints", root / "checkpoints")
    write_run(root, spec_of("grown"), tokenizer_of(pairs, "grown"))
    return root.parent


@pytest.fixture
def verify(runs: Path, tmp_path: Path, fork_server: ForkServer) -> Verify:
    """Run `meditron verify` in a process of its own; return its exit code and its stdout."""

    def run(*words: str) -> tuple[int, str]:
        more = ("verify", *words, "--runs-dir", str(runs))
        written, _, code = fork_server.run(VERIFY, tmp_path, *more).rpartition("exit ")
        return int(code), written

    return run


@pytest.mark.engine
def test_equal_models_are_shown_as_a_table(pairs: Path, verify: Verify) -> None:
    code, written = verify(str(pairs / "grown" / "hf"), "trial:first", "--tokens", "40")

    assert code == 0
    assert "both compute the same" in written
    assert "13 texts, 520 positions, 257 tokens of the vocabulary" in written
    assert "rows 257 to 259" in written
    assert "follow repeat-last-row" in written
    assert "3 of 3" in written
    assert "GPUs" in written


@pytest.mark.engine
def test_an_export_with_other_values_and_ids_has_exit_code_1(
    pairs: Path, tmp_path: Path, verify: Verify
) -> None:
    """The folder is taken for an export of the run by its record."""
    from safetensors.torch import load_file, save_file

    export = tmp_path / "export"
    shutil.copytree(pairs / "grown" / "hf", export)
    tensors = load_file(export / "model.safetensors")
    tensors["model.embed_tokens.weight"][1, 0] += 0.5  # no text has this token
    save_file(tensors, export / "model.safetensors")
    (export / "generation_config.json").write_text(json.dumps({"eos_token_id": 2}))
    (export / "tokenizer.json").write_text("[" * 100_000)
    write_json(export / "meditron.json", {"run": "trial", "step": 0})

    code, written = verify(str(export), "trial:first", "--tokens", "9", "--json")

    problems = json.loads(written)["problems"]
    assert code == 1
    assert problems[0].endswith("other values, by up to 0.5: model.embed_tokens.weight")
    assert "eos_token_id in generation_config.json is 2 instead of 256" in problems


@pytest.mark.engine
def test_a_trained_checkpoint_differs_from_its_base(
    pairs: Path, runs: Path, tmp_path: Path, verify: Verify
) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("Blood pressure 120/80.")

    code, written = verify(
        *(str(pairs / "grown" / "hf"), str(runs / "trial/checkpoints/iter_0000004")),
        *("--text", str(text), "--json"),
    )

    result = json.loads(written)
    assert code == 1
    assert result["step"] == 4
    assert result["texts"][str(text)]["positions"] == 22
    assert list(result["generation"]["rates"]) == ["weights", "checkpoint", "base"]
    assert result["logits"]["max"] > 1e-3
    assert result["problems"]
    assert {"torch", "megatron-core"} <= set(result["versions"])


@pytest.mark.engine
def test_an_accepted_difference_has_exit_code_0(pairs: Path, verify: Verify) -> None:
    code, _ = verify(str(pairs / "grown" / "hf"), "trial:4", "--tolerance", "50", "--tokens", "9")

    assert code == 0


@pytest.mark.engine
def test_a_verification_that_a_signal_ends_gives_its_lease_back(pairs: Path, runs: Path) -> None:
    words = ("verify", str(pairs / "grown" / "hf"), "trial:first", "--runs-dir", str(runs))
    leases = runs / "trial/checkpoints/leases"

    done = subprocess.run([sys.executable, "-c", SIGNALLED, str(leases), *words], cwd=ROOT)

    assert done.returncode == 143
    assert list(leases.iterdir()) == []


@pytest.mark.engine
def test_weights_of_another_model_have_exit_code_2(pairs: Path, verify: Verify) -> None:
    code, written = verify(str(pairs / "qwen 2" / "hf"), "trial")

    assert (code, written) == (2, "")


@pytest.fixture
def named(meditron: Bench) -> RunDir:
    """Return a run with a checkpoint that nothing is computed with."""
    run = RunDir(meditron.runs / "trial")
    write_run(run.root, spec_of("llama 2"), tokenizer_ref("t.json"))
    write_checkpoint(run.path("checkpoints"), 0)
    return run


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("x", "nothing"), "no run is called 'nothing'"),
        (("x", "trial:7"), "run trial has no checkpoint '7'"),
        (("x", "trial:newest"), "'newest' is no checkpoint"),
        (("x", "trial", "--dtype", "bf16"), "--dtype bf16 has no tolerance of its own"),
        (("org/model", "trial"), "org/model is not in the hub's cache"),
        (("./absent", "trial"), "absent is no folder\nhint: name a folder with config.json and"),
        (("binary", "trial"), "binary is no folder"),
        (("x", "trial", "--text", "absent.txt"), "'absent.txt' does not exist"),
        ((".", "trial", "--text", "binary"), "binary is not a text in UTF-8"),
    ],
)
def test_names_that_mean_nothing_are_refused(
    meditron: Bench, named: RunDir, words: tuple[str, ...], message: str
) -> None:
    Path("binary").write_bytes(b"\xff\xfe\xff")

    result = meditron("verify", *words)

    assert result.exit_code == 2, result.output
    assert message in result.output


def test_a_checkpoint_outside_a_run_is_refused(meditron: Bench, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "loose", 0)

    result = meditron("verify", "x", str(tmp_path / "loose/iter_0000000"))

    assert result.exit_code == 2
    assert "lies in no run" in result.output
