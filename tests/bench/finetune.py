"""Tokens per second of finetuning beside those of pretraining: recipe ``tiny`` on one rank and one
thread, whose whole steps take turns.

Rows have the lengths of questions with few words and of such with a context: their logarithms are
normal, with a median of an eighth of a sequence. Tokens are those of rows; padding takes time and
does not count. A side trains as many steps a round as make about as many tokens.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jobs.contract import rundir, specs
from jobs.contract.files import read_json, write_json
from jobs.contract.stage_specs import FinetuneSpec, StartRef, TrainingSpec
from tests.bench import Figure, confidence, environment, ratio, ratios, take_turns
from tests.bench.loop import prepare, task_of, write_task

ROUNDS = 10
ROWS = 4000
SIZE = 64
"""Rows of a step, as published."""
SHARED = ("model", "parallel", "device", "precision", "tokenizer", "optimizer", "seed")


def figures(rounds: int = ROUNDS) -> list[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        write_task(rundir.RunDir(Path(folder)), 10_000, 10_000)
        done = subprocess.run(
            [sys.executable, "-m", "tests.bench.finetune", folder, str(rounds)],
            env=environment(OMP_NUM_THREADS="1", PYTHONWARNINGS="ignore"),
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
    found = json.loads(done.stdout.splitlines()[-1])
    return [
        Figure(
            f"finetune_{side}_over_pretrain",
            ratio(found["pretrain"], found[side]),
            "≥ 0.9" if side == "packed" else "",
            "tokens/s of rows; {:.3f} to {:.3f} at 95 % over {} rounds".format(
                *confidence(ratios(found["pretrain"], found[side])), rounds
            ),
        )
        for side in ("packed", "padded")
    ]


def measure(root: Path, rounds: int) -> dict[str, list[float]]:
    """Return the seconds per token of each side and turn."""
    from jobs.engine.kinds.finetuning import Finetuning
    from jobs.engine.kinds.pretraining import Pretraining
    from jobs.runtime.context import context_from

    context = context_from(root, "pretrain", 0, os.environ)
    place = prepare(context)
    pretraining = task_of(context.run)
    write_rows(context.run.path("rows"), pretraining)
    sides = {"pretrain": side(context, pretraining, Pretraining.open, place)}
    for name in ("packed", "padded"):
        spec = finetuning(pretraining, packing=name == "packed")
        task = specs.task_from_json(read_json(context.run.spec("pretrain", 0)))
        task = dataclasses.replace(task, stage="finetune", spec=spec)
        write_json(context.run.spec("finetune", 0), specs.to_json(task))
        own = context_from(root, "finetune", 0, os.environ)
        sides[name] = side(own, spec, Finetuning.open, place)
    return take_turns(rounds, **sides)


def finetuning(pretraining: TrainingSpec, *, packing: bool) -> FinetuneSpec:
    """Return a finetuning of the model of a pretraining."""
    return FinetuneSpec(
        **{name: getattr(pretraining, name) for name in SHARED},
        name="bench",
        start=StartRef("first", 0, "checkpoints"),
        rows_dir="rows",
        packing=packing,
        micro_batch_size=pretraining.micro_batch_size,
        global_batch_size=SIZE,
        train_steps=10_000,
        validation_interval=0,
        validation_batches=1,
        save_interval=10_000,
        keep_checkpoints=2,
        checkpoint_dir="finetune/bench/checkpoints",
        tensorboard_dir="finetune/bench/tensorboard",
    )


def write_rows(folder: Path, spec: TrainingSpec) -> None:
    """Write rows of random tokens."""
    import numpy

    from jobs.data.indexed_dataset import IndexedWriter, index_dtype, stored

    longest = spec.model.seq_length
    generator = numpy.random.default_rng(0)
    lengths = generator.lognormal(numpy.log(longest / 8), 0.7, ROWS).clip(8, longest)
    lengths = lengths.astype(numpy.int32)
    dtype = index_dtype(spec.model.vocab_size)
    for split in ("train", "validation"):
        writer = IndexedWriter(folder / split, dtype)
        ids = generator.integers(0, spec.model.vocab_size, int(lengths.sum()))
        writer.add(ids.astype(stored(dtype)), lengths)
        writer.publish()
        numpy.save(folder / f"{split}.answers.npy", lengths - 4)


def side(
    context: Any, spec: Any, open_kind: Callable[[Any, Any], Any], place: Any
) -> Callable[[], float]:
    """Return a function that trains some steps and returns their seconds per token."""
    from jobs.engine import model, optim, reporter
    from jobs.engine.trainer import StopRequests, Trainer

    network = model.build(spec.model, spec.parallel, spec.precision, place)
    kind = open_kind(context, spec)
    written = reporter.Reporter(context, spec)
    written.volume = kind.volume
    trainer = Trainer(
        context=context,
        spec=spec,
        kind=kind,
        splits=kind.open_splits(place),
        pieces=[network],
        updater=optim.prepare([network], spec),
        reporter=written,
        requests=StopRequests(context),
    )
    written.open(0)
    tokens = kind.volume.tokens(100) / 100
    steps = max(1, round(30_000 / tokens))
    trainer._train_step()

    def train() -> float:
        begin, started = trainer.step, time.perf_counter()
        for _ in range(steps):
            trainer._train_step()
        seconds = time.perf_counter() - started
        return seconds / (kind.volume.tokens(trainer.step) - kind.volume.tokens(begin))

    return train


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]), int(sys.argv[2]))))
