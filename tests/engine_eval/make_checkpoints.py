"""Make tiny random checkpoints with the engine, and write the log-likelihoods of their model.

``python make_checkpoints.py SPEC CHECKPOINTS ANSWERS``: SPEC is a JSON of ``model``, ``tokenizer``,
``vocabulary`` and ``pairs`` of context and continuation; ANSWERS gets one log-likelihood per pair,
by the weights of step 4. Steps 0 and 4 have random weights; those of step 6 hold a NaN.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer

from jobs.checkpoints import manifest
from jobs.contract.files import sha256
from jobs.contract.stage_specs import (
    ModelSpec,
    OptimizerSpec,
    ParallelSpec,
    PretrainSpec,
    TokenizerRef,
    VocabularySpec,
)
from jobs.engine import device

ALONE = ParallelSpec(
    tensor=1,
    pipeline=1,
    data=1,
    sequence_parallel=False,
    distributed_optimizer=True,
    recompute="none",
)


def main(spec_file: Path, folder: Path, answers_file: Path) -> None:
    asked = json.loads(spec_file.read_text())
    spec = pretrain_spec(ModelSpec(**asked["model"]), asked)
    place = device.start("cpu", 0, 1, 0)
    from jobs.engine import model, optim, sharded_state
    from jobs.engine.saving import saver

    model.start_parallel(ALONE, seed=7)
    network = model.build(spec.model, ALONE, "fp32", place)
    trained = sharded_state.TrainingState([network], optim.prepare([network], spec).optimizer)
    for step in (0, 4, 6):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.normal_(1.0 if parameter.dim() == 1 else 0.0, 0.3)
            if step == 6:
                next(network.parameters()).fill_(float("nan"))
        if step == 4:
            answers_file.write_text(json.dumps(answers(network, asked)))
        saver.save(folder, trained, record(step, spec), keep=9)
    device.end()


def answers(network: torch.nn.Module, asked: dict) -> list[float]:
    """Return log-likelihoods, one pair at a time: one text, one row, no padding, nothing shared."""
    tokenizer = Tokenizer.from_file(asked["tokenizer"])
    found = []
    for context, continuation in asked["pairs"]:
        before = tokenizer.encode(context).ids
        tokens = tokenizer.encode(context + continuation).ids
        row = torch.tensor([tokens])
        positions = torch.arange(len(tokens)).unsqueeze(0)
        with torch.inference_mode():
            scores = network(row, positions, None)[0, :, : asked["model"]["vocab_size"]]
        likelihoods = scores.double().log_softmax(-1)
        found.append(
            sum(float(likelihoods[i - 1, tokens[i]]) for i in range(len(before), len(tokens)))
        )
    return found


def record(step: int, spec: PretrainSpec) -> manifest.CheckpointRecord:
    return manifest.CheckpointRecord(
        iteration=step,
        consumed_samples=step,
        layout=dataclasses.asdict(ALONE),
        precision="fp32",
        kind=manifest.TRAINING,
        **manifest.identity(spec.model, spec.tokenizer),
        origin={"weights": manifest.RANDOM},
        data={},
        bytes=0,
    )


def pretrain_spec(model: ModelSpec, asked: dict) -> PretrainSpec:
    return PretrainSpec(
        model=model,
        parallel=ALONE,
        device="cpu",
        precision="fp32",
        weights="random",
        corpora=(),
        tokenizer=TokenizerRef(
            asked["tokenizer"],
            sha256(Path(asked["tokenizer"])),
            VocabularySpec(**asked["vocabulary"]),
        ),
        micro_batch_size=1,
        global_batch_size=1,
        train_steps=4,
        optimizer=OptimizerSpec(
            learning_rate=1e-3,
            min_learning_rate=1e-4,
            warmup_steps=1,
            decay_steps=4,
            adam_beta1=0.9,
            adam_beta2=0.95,
            adam_eps=1e-5,
            weight_decay=0.1,
            clip_grad=1.0,
        ),
        seed=7,
        validation_interval=0,
        validation_batches=0,
        save_interval=2,
        keep_checkpoints=9,
        checkpoint_dir="checkpoints",
        tensorboard_dir="tensorboard",
        index_dir="tokens/index",
    )


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:]))
