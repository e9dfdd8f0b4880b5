"""Likelihoods of a checkpoint are those that transformers computes with its export."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from jobs.checkpoints import manifest
from jobs.contract import specs
from jobs.contract.files import read_json, write_json
from jobs.contract.stage_specs import ExportSpec, VerifySpec

from ..byte_tokenizer import EOD
from ..model_specs import vocabulary_spec
from ..ranks import PATIENCE
from .conftest import MODEL

pytestmark = pytest.mark.engine

TRANSFORMERS = f"""
import json, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
found = []
for prompt, options in json.load(open(sys.argv[2])):
    before = tokenizer(prompt).input_ids
    answers = [tokenizer(prompt + " " + option).input_ids[len(before):] for option in options]
    kept = before[-({MODEL.seq_length} + 1 - max(map(len, answers))):]
    values = []
    for answer in answers:
        with torch.inference_mode():
            scores = model(torch.tensor([kept + answer])).logits[0].double().log_softmax(-1)
        values.append(sum(float(scores[len(kept) + n - 1, t]) for n, t in enumerate(answer)))
    found.append(values)
json.dump(found, open(sys.argv[3], "w"))
"""
"""Scores options one at a time, without batches, with the tokenizer of the folder."""


@pytest.fixture(params=["", EOD], ids=["without BOS", "with BOS"])
def bos(request) -> str:
    return request.param


@pytest.fixture
def checkpoints(made, bos, tmp_path) -> Path:
    """Return the checkpoints as those of a model whose documents began with BOS, or did not."""
    if not bos:
        return made.folder
    folder = shutil.copytree(made.folder, tmp_path / "checkpoints")
    record = folder / "iter_0000004" / manifest.RECORD
    vocabulary = specs.digest(vocabulary_spec(257, EOD, bos_token=bos))
    write_json(record, {**read_json(record), "vocabulary": vocabulary})
    return folder


def export(scored, checkpoints: Path) -> Path:
    """Export the checkpoint that was scored; return the folder."""
    spec = scored.task.spec
    exported = ExportSpec(
        checkpoint="4",
        target_step=4,
        checkpoint_dir=str(checkpoints),
        model=spec.model,
        tokenizer=spec.tokenizer,
        special_tokens_in_text=False,
        dtype="source",
        shard_bytes=1 << 20,
        license="",
        languages=(),
        output_dir="export",
        verify=VerifySpec(enabled=False, tokens=16),
    )
    task = dataclasses.replace(scored.task, stage="export", spec=exported)
    write_json(scored.run.spec("export", 0), specs.to_json(task))
    rank = scored.server.start(
        ("export", str(scored.run.root), "0"),
        env={"PATH": "/usr/bin:/bin", "HOME": str(scored.run.root)},
        cwd=scored.run.root,
        stdout=scored.run.root / "export.out",
        stderr=scored.run.root / "export.err",
    )
    _, complaints = rank.communicate(timeout=PATIENCE)
    assert rank.returncode == 0, complaints
    return scored.run.path("export")


def test_likelihoods_are_those_of_transformers(evaluation, checkpoints, bos, benchmark, tmp_path):
    """The prompt of q7 is longer than the model reads, and loses its beginning."""
    scored = evaluation(checkpoint_dir=str(checkpoints), checkpoint="4", bos_token=bos)
    outcome = scored.start()
    assert outcome.returncode == 0, outcome.stderr
    other = evaluation(
        checkpoint_dir=str(checkpoints), checkpoint="4", bos_token=bos, batch_size=16
    )
    assert other.start().returncode == 0
    records = scored.questions()
    texts = {
        item["id"]: item["question"] for item in map(json.loads, benchmark.read_text().splitlines())
    }
    prompts = [f"Question: {texts[record['id']]}\nThe answer is:" for record in records]
    asked = [(text, record["options"]) for text, record in zip(prompts, records, strict=True)]
    (tmp_path / "asked.json").write_text(json.dumps(asked))

    names = [str(export(scored, checkpoints)), *(str(tmp_path / n) for n in ("asked.json", "out"))]
    scored.server.run(TRANSFORMERS, tmp_path, *names)

    for ours, batched, theirs in zip(
        records, other.questions(), json.loads((tmp_path / "out").read_text()), strict=True
    ):
        assert ours["loglikelihoods"] == pytest.approx(theirs, abs=1e-4)
        assert batched["loglikelihoods"] == pytest.approx(theirs, abs=1e-4)
    assert scored.results()["truncated"] == 1
    assert scored.results()["bos"] == bool(bos)
