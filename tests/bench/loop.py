"""Our training loop beside a bare megatron.core loop: same model, same data, taking turns; and the
time from a rank's start to its first step, by the number of shards.

Both live in one process on one CPU thread. ``jobs.engine.trainer`` runs as it is, with its metrics,
TensorBoard, agreement on stop requests and finite checks; its reporter is one that, after each
step, stops the clock, lets the bare loop do a step, and starts the clock again. The bare loop is
what megatron.core's own quick start does: read a batch, forward, backward, optimizer step.

A processor's speed varies from step to step, by several per cent. So the figure is a median over
pairs of steps that follow each other, with the interval in which it lies.

Python's automatic garbage collection is off in both, as in a training: with it, a collection would
count on the side where it happens to fall. Only our loop pays for collections, at its own steps,
and they collect what the bare loop has left too; so the comparison favours the bare loop.
"""

from __future__ import annotations

import dataclasses
import json
import os
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
from jobs.contract.stage_specs import MAIN_CORPUS, CorpusSpec, PretrainSpec
from jobs.data import sample_index
from meditron_cli import sample
from meditron_cli.config.load import load
from meditron_cli.runs.prepare import plan_of
from tests.bench import Figure, confidence, environment, ratio, ratios

if TYPE_CHECKING:
    import torch

    from jobs.contract.metrics_log import MetricsLog
    from jobs.runtime.context import Context

TOKENIZER = Path(sample.__file__).with_name("tokenizer.json")
ROUNDS = 120
"""Pairs of steps. Their ratios vary by a tenth, and the median of so many by a hundredth or two."""
WARM_UP_ROUNDS = 4
SHARDS = (1, 1000)
STARTS = 4
STEPS = 200
"""Of the trainings that are started; their samples fit the tokens."""
POLL_SECONDS = 0.02


def figures(
    rounds: int = ROUNDS, shards: Sequence[int] = SHARDS, starts: int = STARTS
) -> list[Figure]:
    return [loop_over_bare(rounds), *(first_step(count, starts) for count in shards)]


def loop_over_bare(rounds: int) -> Figure:
    with tempfile.TemporaryDirectory() as folder:
        run = rundir.RunDir(Path(folder))
        write_task(run, rounds + WARM_UP_ROUNDS)
        done = subprocess.run(
            [sys.executable, "-m", "tests.bench.loop", folder],
            env=environment(OMP_NUM_THREADS="1", PYTHONWARNINGS="ignore"),
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        found = json.loads(done.stdout.splitlines()[-1])
        tokens = step_tokens(task_of(run))
    ours, bare = found["ours"], found["bare"]
    speed = [round(tokens / statistics.median(side["wall"])) for side in (ours, bare)]
    low, high = confidence(ratios(bare["wall"], ours["wall"]))
    of_sums = sum(bare["wall"]) / sum(ours["wall"])
    note = (
        f"{low:.3f} to {high:.3f} at 95 % over {rounds} pairs of steps; of the sums {of_sums:.3f}, "
        f"of processor time {ratio(bare['processor'], ours['processor']):.3f}; "
        f"tokens/s: {speed[0]} and {speed[1]} bare"
    )
    return Figure("loop_over_bare", ratio(bare["wall"], ours["wall"]), "≥ 0.98", note)


def first_step(shards: int, starts: int) -> Figure:
    """Measure starts of a rank until its first step is in the metrics, each from step 0; the index
    of samples is there before, as the stage ``index`` leaves it.
    """
    from jobs.contract.metrics_log import MetricsLog

    with tempfile.TemporaryDirectory() as folder:
        run = rundir.RunDir(Path(folder))
        prefixes = [f"tokens/train-{number:04d}" for number in range(shards)]
        write_task(run, STEPS, prefixes)
        write_shards([run.path(prefix) for prefix in prefixes], task_of(run))
        sample_index.build(run, task_of(run))
        found = []
        for attempt in range(1, starts + 1):
            log = MetricsLog(run, "pretrain")
            list(log.read_new())  # those of earlier attempts
            found.append(seconds_to_first_step(run, attempt, log))
    later = statistics.median(found[1:])
    name = f"first_step_seconds_{shards}_{'shard' if shards == 1 else 'shards'}"
    return Figure(name, later, "", f"{found[0]:.1f} s the first time")


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


def write_task(run: rundir.RunDir, steps: int, prefixes: Sequence[str] = ("tokens/train",)) -> None:
    """Write the task of recipe ``tiny`` on one rank, on random tokens, for the measured steps."""
    settings = [f"tokenize.tokenizer={TOKENIZER}"]
    plan = plan_of(load("local", "tiny", None, settings), ("pretrain",))
    task = plan.stage("pretrain").tasks[0]
    spec = task.spec
    assert isinstance(spec, PretrainSpec)
    changed = dataclasses.replace(
        spec,
        corpora=(CorpusSpec(MAIN_CORPUS, tuple(str(run.path(prefix)) for prefix in prefixes)),),
        max_epochs=None,
        train_steps=steps + 1,  # the clock starts after the first step
        validation_interval=0,
        save_interval=10 * steps,
    )
    write_json(run.spec("pretrain", 0), specs.to_json(dataclasses.replace(task, spec=changed)))


def task_of(run: rundir.RunDir) -> PretrainSpec:
    spec = specs.task_from_json(read_json(run.spec("pretrain", 0))).spec
    assert isinstance(spec, PretrainSpec)
    return spec


def step_tokens(spec: PretrainSpec) -> int:
    """Return the tokens that each side trains on per step."""
    return spec.global_batch_size * spec.model.seq_length


def measure(root: Path) -> dict[str, dict[str, list[float]]]:
    """Train in this process, and return ``Turns.times``."""
    from jobs.runtime.context import context_from

    context = context_from(root, "pretrain", 0, os.environ)
    spec = task_of(context.run)
    place = prepare(context)
    tokens = Path(spec.corpora[0].data[0])
    turns = Turns(bare_loop(spec, tokens, root / "bare-cache", place))
    train(context, place, turns.step)
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


def train(context: Context, place: torch.device, after_step: Callable[[], None]) -> None:
    """Run our loop unchanged, and a callback after each step."""
    from jobs.data import survey
    from jobs.engine import dataset, device, garbage, model, optim, reporter
    from jobs.engine.trainer import StopRequests, Trainer

    class Reporter(reporter.Reporter):
        """Train our steps, and after each of them let the other side train."""

        def step(
            self, step: int, loss: float, rate: float, norm: float, seconds: float, samples: str
        ) -> None:
            super().step(step, loss, rate, norm, seconds, samples)
            after_step()

    spec = task_of(context.run)
    datasets = survey.survey(context.run, spec)
    network = model.build(spec.model, spec.parallel, spec.precision, place)
    trainer = Trainer(
        context=context,
        spec=spec,
        datasets=datasets,
        splits=dataset.open_splits(context.run, spec, datasets, place),
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


@dataclass
class Times:
    """Wall-clock and processor seconds of one side's steps."""

    wall: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    _started: tuple[float, float] = (0.0, 0.0)

    def start(self) -> None:
        self._started = time.perf_counter(), time.process_time()

    def stop(self) -> None:
        self.wall.append(time.perf_counter() - self._started[0])
        self.processor.append(time.process_time() - self._started[1])

    def after_warm_up(self) -> dict[str, list[float]]:
        """Return the times without the first steps, in which caches fill."""
        return {"wall": self.wall[WARM_UP_ROUNDS:], "processor": self.processor[WARM_UP_ROUNDS:]}


@dataclass
class Turns:
    """A callback that lets both sides train a step in turn and keeps their times."""

    step_of_bare: Callable[[], None]
    started: bool = False
    """Our first step is done, and the clock runs."""
    ours: Times = field(default_factory=Times)
    bare: Times = field(default_factory=Times)

    def step(self) -> None:
        """Note the end of one of our steps."""
        if self.started:
            self.ours.stop()
            self.bare.start()
            self.step_of_bare()
            self.bare.stop()
        self.started = True
        self.ours.start()

    def times(self) -> dict[str, dict[str, list[float]]]:
        """Return both sides' steps."""
        return {"ours": self.ours.after_warm_up(), "bare": self.bare.after_warm_up()}


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
    print(json.dumps(measure(Path(sys.argv[1]))))
