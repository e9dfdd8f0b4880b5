"""A converted model computes what transformers computes, in every layout, with and without tokens
that were added to its vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from jobs.checkpoints import manifest
from jobs.contract import rundir, specs
from jobs.contract.files import sha256, write_json
from jobs.contract.stage_specs import ConvertSpec, ModelSpec, TokenizerRef, VerifySpec
from jobs.runtime.context import context_from

from ..jobs.conversion.models import write_tokenizer
from ..model_specs import vocabulary_spec
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

def scores(network, spec, tokens):
    positions = torch.arange(tokens.size(1)).unsqueeze(0).expand_as(tokens)
    if layout.pipeline == 1:
        return model.logits(network, tokens)
    with torch.no_grad():
        if not last:
            hidden = network(tokens, positions, None)
            torch.distributed.send(hidden, parallel_state.get_pipeline_model_parallel_next_rank())
            return None
        hidden = torch.empty(tokens.size(1), tokens.size(0), spec.hidden_size)
        torch.distributed.recv(hidden, parallel_state.get_pipeline_model_parallel_prev_rank())
        network.set_input_tensor(hidden)
        return network(tokens, positions, None, runtime_gather_output=True)[..., :spec.vocab_size]

results = {}
for name, run in given["runs"].items():
    run = RunDir(Path(run))
    spec = load_task(run, "convert", 0).spec.model
    network = model.build(
        spec, layout, "fp32", place, for_inference=layout.pipeline == 1
    ).eval()
    checkpoint.load_weights(run.path("checkpoints") / manifest.name(0), network)
    asked = torch.load(given["answers"][name], weights_only=True)
    found = scores(network, spec, asked["tokens"])
    if last:
        difference = (found - asked["logits"]).abs()
        results[name] = [float(difference.max()), float(difference.mean()), list(found.shape)]
print(json.dumps(results))
device.end()
"""
"""The difference of logits per model, on the ranks of the last pipeline stage."""


@pytest.fixture(scope="session")
def converted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """Return runs with a converted model, and files with transformers' answers, by name."""
    root = tmp_path_factory.mktemp("converted")
    runs, answers = {}, {}
    for number, (name, (family, spec)) in enumerate(parity.MODELS.items()):
        folder = root / f"model-{number}"
        theirs = parity.reference(family, spec, seed=5)
        theirs.save_pretrained(folder)
        write_tokenizer(folder / "tokenizer.json", spec.vocab_size, ())
        for label, added in (("", ()), (", with added tokens", ADDED)):
            run = convert(root / f"run-{number}{len(added)}", folder, spec, added)
            runs[name + label] = str(run.root)
            answers[name + label] = str(run.root / "answers.pt")
            torch.save(answer(theirs, spec.vocab_size, len(added)), run.root / "answers.pt")
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
    task = specs.TaskSpec(
        stage="convert",
        index=0,
        spec=spec,
        ranks=1,
        ranks_per_node=1,
        nodes=1,
        gpus_per_node=0,
        cpus_per_rank=4,
        launcher="local",
        python=("python",),
        srun_args=(),
        secrets_file="",
        health={},
    )
    write_json(run.spec("convert", 0), specs.to_json(task))
    stage.run(context_from(root, "convert", 0, {}))
    assert manifest.problem(run.path("checkpoints") / manifest.name(0)) == ""
    return run


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
    for table in filter(None, tables):
        assert table.keys() == converted["runs"].keys()
        for name, (largest, mean, shape) in table.items():
            print(f"| {name} | {tensor} x {pipeline} | fp32 | {largest:.1e} | {mean:.1e} |")
            assert largest < 1e-4, name
            assert shape == [2, 60, 103 if "added" in name else 100], name
