"""A converted model computes what transformers computes, in every layout, with and without tokens
that were added to its vocabulary.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from jobs.checkpoints import manifest
from jobs.contract import rundir, specs
from jobs.contract.files import read_json, sha256, write_json
from jobs.contract.stage_specs import (
    ConvertSpec,
    ExportSpec,
    ModelSpec,
    TokenizerRef,
    VerifySpec,
)
from jobs.data.tokenizer_file import read_tokens
from jobs.runtime.context import context_from

from ..byte_tokenizer import SIZE, write_byte_tokenizer
from ..fork_server import ForkServer
from ..jobs.conversion.models import write_tokenizer
from ..model_specs import vocabulary_spec
from ..ranks import PATIENCE
from ..task_specs import task_spec
from . import parity

pytestmark = pytest.mark.engine

ADDED = ("<EOD>", "[fig]", "[/fig]")

COMPARE = """
import json, os, sys
import torch
import torch.distributed
from pathlib import Path
from jobs.checkpoints import manifest
from jobs.contract.specs import load_task
from jobs.contract.rundir import RunDir
from jobs.contract.stage_specs import ParallelSpec
from jobs.engine import device
given = json.load(sys.stdin)
rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
place = device.start("cpu", rank, world, 0)
from jobs.engine import checkpoint, model
from megatron.core import parallel_state
layout = ParallelSpec(**given["layout"])
model.start_parallel(layout, 0)
last = parallel_state.is_pipeline_last_stage()
types = {"fp32": torch.float32, "bf16": torch.bfloat16}

def scores(network, spec, tokens, dtype):
    positions = torch.arange(tokens.size(1)).unsqueeze(0).expand_as(tokens)
    if layout.pipeline == 1:
        return model.logits(network, tokens)
    with torch.no_grad():
        if not last:
            hidden = network(tokens, positions, None)
            torch.distributed.send(hidden, parallel_state.get_pipeline_model_parallel_next_rank())
            return None
        hidden = torch.empty(tokens.size(1), tokens.size(0), spec.hidden_size, dtype=dtype)
        torch.distributed.recv(hidden, parallel_state.get_pipeline_model_parallel_prev_rank())
        network.set_input_tensor(hidden)
        return network(tokens, positions, None, runtime_gather_output=True)[..., :spec.vocab_size]

results = {}
for name, run in given["runs"].items():
    run = RunDir(Path(run))
    spec = load_task(run, "convert", 0).spec.model
    asked = torch.load(given["answers"][name], weights_only=True)
    precision = asked["precision"]
    network = model.build(
        spec, layout, precision, place, for_inference=layout.pipeline == 1
    ).eval()
    checkpoint.load_weights(run.path("checkpoints") / manifest.name(0), network)
    found = scores(network, spec, asked["tokens"], types[precision])
    if last:
        sides = {key: asked[key] for key in ("logits", "wide") if key in asked}
        differences = {key: (found.float() - side).abs() for key, side in sides.items()}
        results[name] = {
            "shape": list(found.shape),
            **{key: [float(one.max()), float(one.mean())] for key, one in differences.items()},
        }
print(json.dumps(results))
device.end()
"""
"""The difference of logits per model, on the ranks of the last pipeline stage."""


BF16 = ("llama 2", "llama 2 with groups", "llama 3.1")
"""Models that are compared in bfloat16 too."""


@pytest.fixture(scope="session")
def converted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """Return runs with a converted model, and files with transformers' answers, by name."""
    root = tmp_path_factory.mktemp("converted")
    runs, answers = {}, {}

    def add(name: str, folder: Path, model: ModelSpec, added: tuple[str, ...], **asked: Any) -> Any:
        run = convert(root / f"run-{len(runs)}", folder, model, added)
        runs[name], answers[name] = str(run.root), str(run.root / "answers.pt")
        torch.save(asked, answers[name])

    for number, (name, (family, spec)) in enumerate(parity.MODELS.items()):
        folder = root / f"model-{number}"
        theirs = parity.reference(family, spec, seed=5)
        theirs.save_pretrained(folder)
        write_tokenizer(folder / "tokenizer.json", spec.vocab_size, ())
        for label, added in (("", ()), (", with added tokens", ADDED)):
            asked = answer(theirs, spec.vocab_size, len(added))
            add(name + label, folder, spec, added, precision="fp32", **asked)
        if name in BF16:
            narrow = root / f"model-{number}-bf16"
            theirs.bfloat16().save_pretrained(narrow)
            shutil.copy(folder / "tokenizer.json", narrow)
            asked = answer(theirs, spec.vocab_size, 0)
            wide = answer(theirs.float(), spec.vocab_size, 0)["logits"]  # the same weights
            add(f"{name}, bf16", narrow, spec, (), precision="bf16", wide=wide, **asked)
    return {"runs": runs, "answers": answers}


def convert(root: Path, folder: Path, model: ModelSpec, added: tuple[str, ...]) -> rundir.RunDir:
    """Convert a folder in this process; return the run."""
    from jobs.stages import convert as stage

    run = rundir.RunDir(root)
    root.mkdir()
    tokenizer = write_tokenizer(root / "tokenizer.json", model.vocab_size, added)
    vocabulary = vocabulary_spec(
        model.vocab_size, added_tokens=added, control_tokens=added[:1],
        eod_token=added[0] if added else "w0",
    )  # fmt: skip
    spec = ConvertSpec(
        weights="org/base",
        folder=str(folder),
        model=replace(model, vocab_size=model.vocab_size + len(added)),
        tokenizer=TokenizerRef(str(tokenizer), sha256(tokenizer), vocabulary),
        checkpoint_dir="checkpoints",
        verify=VerifySpec(enabled=False, tokens=16),
    )
    write_task(run, "convert", spec)
    stage.run(context_from(root, "convert", 0, {}))
    assert manifest.problem(run.path("checkpoints") / manifest.name(0)) == ""
    return run


def write_task(run: rundir.RunDir, stage: str, spec: Any) -> None:
    """Write a task for one process on this machine."""
    task = task_spec(stage, spec, cpus_per_rank=4)
    write_json(run.spec(stage, 0), specs.to_json(task))


def answer(theirs: Any, base: int, added: int) -> dict[str, torch.Tensor]:
    """Return tokens and their logits; an added token is a copy of the last one of the base."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, base + added, (2, 60), generator=generator)
    with torch.inference_mode():
        logits = theirs(tokens.clamp(max=base - 1)).logits.float()
    copies = logits[..., -1:].expand(-1, -1, added)
    return {"tokens": tokens, "logits": torch.cat([logits, copies], dim=-1).clone()}


def layout(tensor: int, pipeline: int) -> Mapping[str, Any]:
    return {
        "tensor": tensor,
        "pipeline": pipeline,
        "data": 1,
        "sequence_parallel": False,
        "distributed_optimizer": True,
        "recompute": "none",
    }


EVERY = pytest.mark.full


@pytest.mark.parametrize(
    ("tensor", "pipeline"),
    [
        pytest.param(1, 1, marks=EVERY),
        pytest.param(2, 1, marks=EVERY),
        (4, 1),
        pytest.param(1, 2, marks=EVERY),
        (2, 2),
        pytest.param(4, 2, marks=EVERY),
    ],
)
def test_logits_are_those_of_transformers_in_every_layout(
    tmp_path, fork_server, converted, tensor, pipeline
):
    given = json.dumps({"layout": layout(tensor, pipeline), **converted})

    texts = fork_server.run_ranks(COMPARE, tmp_path, tensor * pipeline, given)

    tables = [json.loads(text.splitlines()[-1]) for text in texts]
    assert sum(bool(table) for table in tables) == tensor
    for number, table in enumerate(filter(None, tables)):
        assert table.keys() == converted["runs"].keys()
        for name, found in table.items():
            asked = torch.load(converted["answers"][name], weights_only=True)
            largest, mean = found["logits"]
            row = f"| {name} | {tensor} x {pipeline} | {asked['precision']} |"
            row += f" {largest:.1e} | {mean:.1e} |"
            if asked["precision"] == "fp32":
                assert largest < 1e-4, name
                assert mean < 1e-5, name
            else:  # rounding alone: as far from exact weights' answers as transformers is
                yardstick = differences(asked["logits"], asked["wide"])
                row += " transformers in bf16 from fp32: {:.1e}, {:.1e};".format(*yardstick)
                row += " meditron: {:.1e}, {:.1e} |".format(*found["wide"])
                # The largest rounding of 12,000 varies with the order of sums, the mean does not.
                for value, wide, limit, factor in zip(
                    (largest, mean), found["wide"], yardstick, (1.5, 1.25), strict=True
                ):
                    assert wide < factor * limit, name
                    assert value < 2 * limit, name
            if number == 0:
                print(row)
            assert found["shape"] == [2, 60, 103 if "added" in name else 100], name


def differences(one: torch.Tensor, other: torch.Tensor) -> tuple[float, float]:
    """Return the largest and the mean absolute difference."""
    found = (one - other).abs()
    return float(found.max()), float(found.mean())


UNUSED = 40
BYTES = ("<one>", "<two>", "<three>")


@pytest.fixture(scope="module")
def unused(tmp_path_factory: pytest.TempPathFactory, fork_server: ForkServer) -> rundir.RunDir:
    """Return the run of a Qwen 2 with rows behind its last token, to which tokens were added:
    converted, exported and verified by tasks, with transformers' answers.
    """
    root = tmp_path_factory.mktemp("unused")
    family, small = parity.MODELS["qwen 2"]
    model = replace(small, vocab_size=SIZE + UNUSED, padded_vocab_size=320, seq_length=128)
    theirs = parity.reference(family, model, seed=5)
    theirs.save_pretrained(root / "base")
    write_byte_tokenizer(root / "base/tokenizer.json")
    write_byte_tokenizer(root / "tokenizer.json", BYTES)
    vocabulary = vocabulary_spec(SIZE, added_tokens=BYTES, control_tokens=BYTES, unused_rows=UNUSED)
    shared: dict[str, Any] = {
        "model": model,
        "tokenizer": TokenizerRef(
            str(root / "tokenizer.json"), sha256(root / "tokenizer.json"), vocabulary
        ),
        "checkpoint_dir": "checkpoints",
        "verify": VerifySpec(enabled=True, tokens=64),
    }
    run = rundir.RunDir(root / "run")
    write_json(run.record, {"run": run.name})
    write_task(run, "convert", ConvertSpec(weights="org/base", folder=str(root / "base"), **shared))
    write_task(
        run,
        "export",
        ExportSpec(
            checkpoint="first", target_step=0, special_tokens_in_text=False, dtype="source",
            shard_bytes=1 << 30, license="", languages=(), output_dir="export-first", **shared,
        ),
    )  # fmt: skip
    for stage in ("convert", "export"):
        log = root / f"{stage}.log"
        task = fork_server.start((stage, str(run.root), "0"), env={}, cwd=root, stdout=log)
        assert task.wait(timeout=PATIENCE) == 0, log.read_text()
    tokens = torch.randint(0, SIZE, (2, 60), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        logits = theirs(tokens).logits.clone()
        logits[..., SIZE : SIZE + 3] = logits[..., SIZE - 1 : SIZE]  # the scores of equal rows
    torch.save({"tokens": tokens, "logits": logits, "precision": "fp32"}, root / "answers.pt")
    return run


@pytest.mark.parametrize("tensor", [1, 2])
def test_added_tokens_in_unused_rows_compute_as_a_copied_row_does(
    tmp_path, fork_server, unused, tensor
):
    given = {
        "layout": layout(tensor, 1),
        "runs": {"unused": str(unused.root)},
        "answers": {"unused": str(unused.root.parent / "answers.pt")},
    }

    texts = fork_server.run_ranks(COMPARE, tmp_path, tensor, json.dumps(given))

    for text in texts:
        found = json.loads(text.splitlines()[-1])["unused"]
        assert found["logits"][0] < 1e-4
        assert found["shape"] == [2, 60, SIZE + UNUSED]


def test_rows_that_no_added_token_takes_are_exported_bit_for_bit(unused):
    folder = unused.path("export-first")
    base = load_file(unused.root.parent / "base/model.safetensors")
    ours = load_file(folder / "model.safetensors")

    assert ours.keys() == base.keys()
    for name, value in base.items():
        assert ours[name].shape == value.shape
        rows = torch.ones(len(value), dtype=torch.bool)
        if name in ("model.embed_tokens.weight", "lm_head.weight"):
            rows[SIZE : SIZE + 3] = False
            assert torch.equal(ours[name][~rows], value[SIZE - 1].expand(3, -1))
        assert torch.equal(ours[name][rows], value[rows]), name
    table = read_tokens(folder / "tokenizer.json")
    assert [table.ids[token] for token in BYTES] == [SIZE, SIZE + 1, SIZE + 2]
    config = json.loads((folder / "config.json").read_text())
    assert config["vocab_size"] == SIZE + UNUSED > table.size


def test_both_verifications_know_which_rows_the_base_model_has(unused):
    convert, export = (
        read_json(unused.path(f"verification/{stage}-0.json")) for stage in ("convert", "export")
    )

    assert convert["rows"] == SIZE
    assert convert["added_rows"] == {
        "first": SIZE, "last": SIZE + 2, "expected": "repeat-last-row", "equal": True
    }  # fmt: skip
    assert (export["rows"], export["added_rows"]) == (SIZE + UNUSED, None)
    assert convert["problems"] == export["problems"] == []
    for record in (convert, export):
        (named,) = [text for text in record["not_verified"] if "AutoTokenizer" in text]
        assert "transformers 5, which replaces the normalizer of the folder's tokenizer" in named
