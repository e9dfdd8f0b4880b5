"""Our training loop beside a bare megatron.core loop: same model, same data, taking turns; and the
time from a rank's start to its first step, and of the stage ``index`` before it, by the number of
shards.

Both live in one process on one CPU thread. ``jobs.engine.trainer`` runs as it is, with its metrics,
TensorBoard, agreement on stop requests, finite checks and asynchronous rolling saves, whose bytes
are digested; its reporter is one that, after each step, stops the clock, lets the bare loop do a
step, and starts the clock again. The bare loop is what megatron.core's own quick start does: read a
batch, forward, backward, optimizer step. It saves nothing.

A processor's speed varies from step to step, by several per cent. So the ratio of steps is a median
over pairs that follow each other, with the interval in which it lies. A save counts with the
seconds by which it lengthens the steps from its beginning to its end, once per interval of the
recipe, 100 steps. The bare loop rests then, since our threads would slow it down too; and in the
second part, in which saves are measured, so that one of our steps is before each.

That is harder than a real training: the recipe saves every 15 to 40 s, and where the machine does
other work the writing threads take their time from the step. In the profiles of clusters a rank has
8 to 72 cores, and saves are minutes apart (docs/resilience.md, "Signal lead time").

Python's automatic garbage collection is off in both, as in a training: with it, a collection would
count on the side where it happens to fall. Only our loop pays for collections, at its own steps,
and they collect what the bare loop has left too; so the comparison favours the bare loop.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from jobs.contract import rundir, specs
from jobs.contract.files import read_json, write_json
from jobs.contract.stage_specs import MAIN_CORPUS, CorpusSpec, IndexSpec, PretrainSpec
from jobs.data import sample_index
from meditron_cli import sample
from meditron_cli.config.load import load
from meditron_cli.runs.prepare import plan_of
from tests.bench import Figure, confidence, environment, ratio, ratios, seconds_of

if TYPE_CHECKING:
    import torch

    from jobs.checkpoints.manifest import StoredCheckpoint
    from jobs.contract.metrics_log import MetricsLog
    from jobs.runtime.context import Context

TOKENIZER = Path(sample.__file__).with_name("tokenizer.json")
ROUNDS = 160
"""Our steps in turn with the bare loop, a quarter of them beside saves. The ratios of the others
vary by a tenth, and the median of so many by a hundredth or two.
"""
WARM_UP_ROUNDS = 4
SAVES = 10
STEPS_PER_SAVE = 10
"""Of the measured steps. A save ends after two or three; it is compared with the others."""
SHARDS = (1, 1000)
STARTS = 4
STEPS = 200
"""Of the trainings that are started; their samples fit the tokens."""
POLL_SECONDS = 0.02


def figures(
    rounds: int = ROUNDS,
    saves: int = SAVES,
    shards: Sequence[int] = SHARDS,
    starts: int = STARTS,
) -> list[Figure]:
    starting = [figure for count in shards for figure in first_step(count, starts)]
    return [loop_over_bare(rounds, saves), *starting]


def loop_over_bare(rounds: int, saves: int) -> Figure:
    with tempfile.TemporaryDirectory() as folder:
        run = rundir.RunDir(Path(folder))
        paired = 1 + WARM_UP_ROUNDS + rounds  # the clock starts after the first step
        interval = write_task(run, paired + (saves + 1) * STEPS_PER_SAVE, STEPS_PER_SAVE)
        done = subprocess.run(
            [sys.executable, "-m", "tests.bench.loop", folder, str(paired)],
            env=environment(OMP_NUM_THREADS="1", PYTHONWARNINGS="ignore"),
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        found = json.loads(done.stdout.splitlines()[-1])
        tokens = step_tokens(task_of(run))
    ours, bare, alone = found["ours"], found["bare"], found["alone"]
    between = statistics.median(alone["between"])
    longer = [sum(steps) - len(steps) * between for steps in alone["saves"]]
    save = statistics.median(longer)
    step = statistics.median(ours["wall"])
    with_saves = interval * step / (interval * step + save)
    speed = [round(tokens / statistics.median(side["wall"])) for side in (ours, bare)]
    low, high = confidence(ratios(bare["wall"], ours["wall"]))
    note = (
        f"a save each {interval} steps lengthens these {interval * step:.1f} s by {save:.3f} s "
        f"({min(longer):.3f} to {max(longer):.3f}, {len(longer)} saves, each beside "
        f"{statistics.mean(map(len, alone['saves'])):.1f} steps); "
        f"without saves {ratio(bare['wall'], ours['wall']):.3f}, {low:.3f} to {high:.3f} at 95 % "
        f"over {len(ours['wall'])} pairs of steps, of processor time "
        f"{ratio(bare['processor'], ours['processor']):.3f}; "
        f"tokens/s: {speed[0]} and {speed[1]} bare"
    )
    value = ratio(bare["wall"], ours["wall"]) * with_saves
    return Figure("loop_over_bare", value, "≥ 0.98", note)


def first_step(shards: int, starts: int) -> list[Figure]:
    """Measure starts of a rank until its first step is in the metrics, each from step 0, and the
    stage ``index`` before them.
    """
    from jobs.contract.metrics_log import MetricsLog

    with tempfile.TemporaryDirectory() as folder:
        run = rundir.RunDir(Path(folder))
        prefixes = [f"tokens/train-{number:04d}" for number in range(shards)]
        write_task(run, STEPS, STEPS, prefixes)
        write_shards([run.path(prefix) for prefix in prefixes], task_of(run))
        index = [seconds_of_index(run) for _ in range(starts)]
        found = []
        for attempt in range(1, starts + 1):
            log = MetricsLog(run, "pretrain")
            list(log.read_new())  # those of earlier attempts
            found.append(seconds_to_first_step(run, attempt, log))
    of = f"{shards}_{'shard' if shards == 1 else 'shards'}"
    return [
        Figure(f"index_seconds_{of}", statistics.median(index), "", spread(index)),
        Figure(f"first_step_seconds_{of}", statistics.median(found), "", spread(found)),
    ]


def spread(seconds: Sequence[float]) -> str:
    return f"{min(seconds):.1f} to {max(seconds):.1f} s, {len(seconds)} starts"


def seconds_of_index(run: rundir.RunDir) -> float:
    """Return the seconds of the stage ``index`` from the start of its process to its end, in a run
    without an index.
    """
    spec = task_of(run)
    shutil.rmtree(run.path(spec.index_dir), ignore_errors=True)
    task = specs.read_task(run, "pretrain", 0)
    assert task is not None
    stage = dataclasses.replace(
        task, stage="index", spec=IndexSpec(spec.order, spec, spec.index_dir)
    )
    write_json(run.spec("index", 0), specs.to_json(stage))
    command = [sys.executable, "-m", "jobs", "index", str(run.root), "0"]
    return seconds_of(command, environment(), run.root)


def seconds_to_first_step(run: rundir.RunDir, attempt: int, log: MetricsLog) -> float:
    """Return the seconds from the start of a rank to its first step; the rank is then killed."""
    from jobs.contract.metrics_log import StepLine

    started = time.perf_counter()
    rank = subprocess.Popen(
        [sys.executable, "-m", "jobs", "pretrain", str(run.root), "0"],
        env=environment(
            OMP_NUM_THREADS="1", PYTHONWARNINGS="ignore", MEDITRON_ATTEMPT=str(attempt)
        ),
        cwd=run.root,
        stdout=subprocess.DEVNULL,
    )
    try:
        while not any(isinstance(line, StepLine) for line in log.read_new()):
            if rank.poll() is not None:
                raise RuntimeError(f"the rank exited with {rank.returncode} before its first step")
            time.sleep(POLL_SECONDS)
        return time.perf_counter() - started
    finally:
        rank.kill()
        rank.wait()


def write_task(
    run: rundir.RunDir,
    steps: int,
    save_interval: int,
    prefixes: Sequence[str] = ("tokens/train",),
) -> int:
    """Write the task of recipe ``tiny`` on one rank, on random tokens, for the measured steps.

    Returns:
        The steps between two saves in the recipe.
    """
    settings = [f"tokenize.tokenizer={TOKENIZER}"]
    plan = plan_of(load("local", "tiny", None, settings), ("pretrain",))
    task = plan.stage("pretrain").tasks[0]
    spec = task.spec
    assert isinstance(spec, PretrainSpec)
    changed = dataclasses.replace(
        spec,
        corpora=(CorpusSpec(MAIN_CORPUS, tuple(str(run.path(prefix)) for prefix in prefixes)),),
        max_epochs=None,
        require_eod=False,
        train_steps=steps + 1,  # the clock starts after the first step
        validation_interval=0,
        save_interval=save_interval,
    )
    write_json(run.spec("pretrain", 0), specs.to_json(dataclasses.replace(task, spec=changed)))
    return spec.save_interval


def task_of(run: rundir.RunDir) -> PretrainSpec:
    spec = specs.task_from_json(read_json(run.spec("pretrain", 0))).spec
    assert isinstance(spec, PretrainSpec)
    return spec


def step_tokens(spec: PretrainSpec) -> int:
    """Return the tokens that each side trains on per step."""
    return spec.global_batch_size * spec.model.seq_length


def measure(root: Path, paired: int) -> dict[str, Any]:
    """Train in this process, the first steps in turn with the bare loop; return ``Turns.times``."""
    from jobs.runtime.context import context_from

    context = context_from(root, "pretrain", 0, os.environ)
    spec = task_of(context.run)
    place = prepare(context)
    tokens = Path(spec.corpora[0].data[0])
    turns = Turns(bare_loop(spec, tokens, root / "bare-cache", place), paired)
    train(context, place, turns)
    return turns.times()


def prepare(context: Context) -> torch.device:
    """Make this process the one rank, and write its tokens."""
    from jobs.engine import device, model

    spec = task_of(context.run)
    place = device.start("cpu", 0, 1, 0, threads=1)
    model.start_parallel(spec.parallel, spec.seed)
    write_tokens(Path(spec.corpora[0].data[0]), spec)
    sample_index.build(context.run, spec)
    return place


def train(context: Context, place: torch.device, observer: Observer) -> None:
    """Run our loop unchanged, and tell an observer of each step and save."""
    from jobs.engine import device, garbage, model, optim, reporter
    from jobs.engine.kinds.pretraining import Pretraining
    from jobs.engine.trainer import StopRequests, Trainer

    class Reporter(reporter.Reporter):
        """Train our steps, and after each of them let the other side train."""

        def step(
            self, step: int, loss: float, rate: float, norm: float, seconds: float, samples: str
        ) -> None:
            super().step(step, loss, rate, norm, seconds, samples)
            observer.step()

        def snapshot(self, step: int, seconds: float) -> None:
            super().snapshot(step, seconds)
            observer.begin_save()

        def committed(
            self, kind: Any, stored: StoredCheckpoint, seconds: float, written: float
        ) -> None:
            super().committed(kind, stored, seconds, written)
            observer.end_save()

    spec = task_of(context.run)
    kind = Pretraining.open(context, spec)
    network = model.build(spec.model, spec.parallel, spec.precision, place)
    trainer = Trainer(
        context=context,
        spec=spec,
        kind=kind,
        splits=kind.open_splits(place),
        pieces=[network],
        updater=optim.prepare([network], spec),
        reporter=Reporter(context, spec),
        requests=StopRequests(context),
    )
    trainer.reporter.open(0)
    with garbage.manual():
        trainer.run()
    trainer.reporter.close()
    device.end()


class Observer:
    """Called at the end of each step of our loop, and around each save."""

    def step(self) -> None:
        """Do something after a step."""

    def begin_save(self) -> None:
        """Do something once a save has begun."""

    def end_save(self) -> None:
        """Do something once a save is committed."""


@dataclass
class Clock:
    """A clock of wall time and of processor time."""

    started: tuple[float, float] = (0.0, 0.0)

    def start(self) -> None:
        self.started = time.perf_counter(), time.process_time()

    def stop(self) -> tuple[float, float]:
        """Return both seconds since the start."""
        return time.perf_counter() - self.started[0], time.process_time() - self.started[1]


def by_kind(steps: Sequence[tuple[float, float]]) -> dict[str, list[float]]:
    """Return the seconds of steps by wall and by processor, without the first ones, in which caches
    fill.
    """
    wall, processor = zip(*steps[WARM_UP_ROUNDS:], strict=True)
    return {"wall": list(wall), "processor": list(processor)}


@dataclass
class Turns(Observer):
    """The times of our steps: at first each in turn with a step of the bare loop, then alone."""

    step_of_bare: Callable[[], None]
    paired: int
    """Of our steps, those of the first part."""
    done: int = 0
    """Our steps. The clock runs from the end of the first one on."""
    clock: Clock = field(default_factory=Clock)
    pairs: list[tuple[tuple[float, float], tuple[float, float]]] = field(default_factory=list)
    """Ours and the bare loop's step, beside no save."""
    between: list[float] = field(default_factory=list)
    """Seconds of our steps of the second part beside no save."""
    saves: list[list[float]] = field(default_factory=list)
    """Of the second part: of each save, the seconds of our steps from its beginning to its end."""
    saving: list[float] | None = None
    """The same of a save that has not ended, or has since the last step."""
    has_ended: bool = False

    def begin_save(self) -> None:
        self.saving, self.has_ended = [], False

    def end_save(self) -> None:
        self.has_ended = True

    def step(self) -> None:
        """Note the end of one of our steps."""
        ours = self.clock.stop()
        if self.saving is not None:
            self.saving.append(ours[0])
            self._note_save()
        elif self.done >= self.paired:
            self.between.append(ours[0])
        elif self.done:
            self.clock.start()
            self.step_of_bare()
            self.pairs.append((ours, self.clock.stop()))
        self.done += 1
        self.clock.start()

    def _note_save(self) -> None:
        if self.has_ended:
            if self.done >= self.paired:
                self.saves.append(self.saving or [])
            self.saving, self.has_ended = None, False

    def times(self) -> dict[str, Any]:
        """Return both sides' steps of the first part, and ours of the second."""
        ours, bare = zip(*self.pairs, strict=True)
        return {
            "ours": by_kind(ours),
            "bare": by_kind(bare),
            "alone": {"between": self.between, "saves": self.saves},
        }


def write_tokens(prefix: Path, spec: PretrainSpec) -> None:
    """Write two million random tokens as an indexed dataset."""
    write_shards([prefix], spec)


def write_shards(prefixes: Sequence[Path], spec: PretrainSpec) -> None:
    """Write two million random tokens as so many indexed datasets."""
    import numpy

    from jobs.data.indexed_dataset import IndexedWriter

    source = numpy.random.default_rng(0)
    for prefix in prefixes:
        prefix.parent.mkdir(parents=True, exist_ok=True)
        writer = IndexedWriter(prefix, "uint16")
        lengths = numpy.full(2000 // len(prefixes), 1000)
        ids = source.integers(spec.model.vocab_size, size=lengths.sum(), dtype=numpy.uint16)
        writer.add(ids, lengths)
        writer.publish()


def bare_loop(spec: PretrainSpec, tokens: Path, cache: Path, place: Any) -> Callable[[], None]:
    """Return a step of the shortest loop around megatron.core that trains the same model."""
    import torch
    from megatron.core.distributed import (
        DistributedDataParallel,
        DistributedDataParallelConfig,
        finalize_model_grads,
    )
    from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer
    from megatron.core.pipeline_parallel import get_forward_backward_func

    from jobs.engine import model

    network: Any = model.build(spec.model, spec.parallel, spec.precision, place)
    network.config.finalize_model_grads_func = finalize_model_grads
    distributed = spec.parallel.distributed_optimizer
    wrapped = DistributedDataParallel(
        network.config,
        DistributedDataParallelConfig(
            grad_reduce_in_fp32=True, use_distributed_optimizer=distributed
        ),
        network,
    )
    config = OptimizerConfig(
        optimizer="adam",
        lr=spec.optimizer.learning_rate,
        weight_decay=spec.optimizer.weight_decay,
        adam_beta1=spec.optimizer.adam_beta1,
        adam_beta2=spec.optimizer.adam_beta2,
        clip_grad=spec.optimizer.clip_grad,
        params_dtype=torch.float32,
        use_distributed_optimizer=distributed,
    )
    optimizer = get_megatron_optimizer(config, [wrapped], use_gloo_process_groups=False)
    batches = iter(
        torch.utils.data.DataLoader(
            bare_dataset(spec, tokens, cache), batch_size=spec.micro_batch_size
        )
    )
    forward_backward = get_forward_backward_func()

    def forward(batches: Any, network: Any) -> tuple[Any, Any]:
        batch = next(batches)
        output = network(batch["tokens"], None, None, labels=batch["labels"])
        return output, lambda output: (output.mean(), {"loss": output.mean().detach()})

    def step() -> None:
        wrapped.zero_grad_buffer()
        optimizer.zero_grad()
        forward_backward(
            forward_step_func=forward,
            data_iterator=batches,
            model=wrapped,
            num_microbatches=spec.global_batch_size // spec.micro_batch_size,
            seq_length=spec.model.seq_length,
            micro_batch_size=spec.micro_batch_size,
            forward_only=False,
        )
        optimizer.step()

    return step


def bare_dataset(spec: PretrainSpec, tokens: Path, cache: Path) -> Any:
    """Return megatron.core's dataset of the same tokens."""
    from megatron.core.datasets.blended_megatron_dataset_builder import (
        BlendedMegatronDatasetBuilder,
    )
    from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig

    eod = spec.model.vocab_size - 1
    tokenizer: Any = SimpleNamespace(eod=eod, pad=-1, unique_identifiers={}, vocab_size=None)
    config = GPTDatasetConfig(
        random_seed=spec.seed,
        sequence_length=spec.model.seq_length,
        blend_per_split=[([str(tokens)], None), None, None],
        path_to_cache=str(cache),
        tokenizer=tokenizer,
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
        create_attention_mask=False,
    )
    samples = spec.train_steps * spec.global_batch_size
    builder = BlendedMegatronDatasetBuilder(GPTDataset, [samples, 0, 0], lambda: True, config)
    return builder.build()[0]


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]), int(sys.argv[2]))))
