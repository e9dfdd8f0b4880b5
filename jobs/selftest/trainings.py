"""Small trainings by the training loop itself, in run directories inside that of the selftest.

``jobs.engine.device.session`` must begin before this module is imported, since it imports
megatron.core.
"""

from __future__ import annotations

import dataclasses
import gc
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from jobs.checkpoints import manifest
from jobs.contract.files import make_folder, sha256
from jobs.contract.metrics_log import MetricsLog, PeriodLine, SaveLine, StepLine
from jobs.contract.rundir import RunDir
from jobs.contract.stage_specs import (
    MAIN_CORPUS,
    TRAINING_STAGES,
    WHOLE,
    CorpusSpec,
    ModelSpec,
    OptimizerSpec,
    ParallelSpec,
    PretrainSpec,
    SelftestSpec,
    TokenizerRef,
    VocabularySpec,
)
from jobs.data import sample_index
from jobs.engine import device as devices
from jobs.engine import layers, model, trainer
from jobs.engine.kinds.pretraining import Pretraining
from jobs.runtime.context import Context
from jobs.runtime.heartbeat import Phase
from jobs.runtime.profile_record import ProfileRequest, write_request
from jobs.selftest import inputs

STAGE = TRAINING_STAGES[0]

SMALL = ModelSpec(
    layers=4,
    hidden_size=128,
    ffn_hidden_size=352,
    attention_heads=4,
    kv_heads=2,
    head_dim=32,
    seq_length=64,
    vocab_size=512,
    padded_vocab_size=512,
    rope_theta=10_000.0,
    rope_scaling=None,
    norm_eps=1e-5,
    init_std=0.1,
    tied_embeddings=False,
    qkv_bias=False,
    qk_norm=False,
    post_norm=False,
)
"""The model of the trainings that are compared: heads and widths suit fused kernels, and its layers
two pipeline stages in two pieces each.

Its initial weights are larger than a recipe's 0.02. With these a rare token at the start of a
sequence, which attends to itself alone, kept a small residual (0.04 beside 0.3 of others behind the
second layer): at one of 20 steps its row of the embedding had 2.8 of a gradient norm of 4.3, and
changed by 3e-5 where weights differed by 3e-8. Two layouts in bf16 then had norms 60 % apart.
"""
MICRO_BATCH = 2
LONGER = 2
"""Times as long are the sequences of the second phase of ``Bench.longer``."""


@dataclass(frozen=True)
class Training:
    """Losses, norms and times of a training, on rank 0; on other ranks only its folder."""

    run: RunDir
    losses: dict[int, float]
    """By step."""
    norms: dict[int, float]
    """Of gradients, by step."""
    seconds: dict[int, float]
    """By step."""
    saves: list[tuple[int, float]]
    """Bytes and seconds of each."""
    periods: list[PeriodLine]

    def checkpoint(self, step: int) -> Path:
        """Return the folder of a checkpoint."""
        return self.run.path("checkpoints") / manifest.name(step)


@dataclass(frozen=True)
class Bench:
    """The ranks of a selftest, and its folder."""

    context: Context
    spec: SelftestSpec
    device: torch.device

    @property
    def folder(self) -> Path:
        """Return the folder of all trainings."""
        return self.context.path(self.spec.output_dir)

    @property
    def world_size(self) -> int:
        return self.context.world_size

    @property
    def small_batch(self) -> int:
        """Return the sequences of a step of the small training."""
        return self.world_size * 2 * MICRO_BATCH

    def layout(self, tensor: int, pipeline: int, virtual: int) -> ParallelSpec:
        """Return a layout of all ranks."""
        return ParallelSpec(
            tensor=tensor,
            pipeline=pipeline,
            data=self.world_size // (tensor * pipeline),
            sequence_parallel=tensor > 1,
            distributed_optimizer=True,
            recompute="none",
            virtual=virtual,
        )

    def small(self, tensor: int = 1, pipeline: int = 1, virtual: int = 1) -> PretrainSpec:
        """Return a small training, of the same samples in every layout."""
        steps = self.spec.steps
        return PretrainSpec(
            model=SMALL,
            parallel=self.layout(tensor, pipeline, virtual),
            device=self.spec.training.device,
            precision=self.spec.training.precision,
            weights=manifest.RANDOM,
            **self.inputs(SMALL),
            micro_batch_size=MICRO_BATCH,
            global_batch_size=self.small_batch,
            train_steps=steps,
            optimizer=OptimizerSpec(
                learning_rate=1e-3,
                min_learning_rate=1e-4,
                warmup_steps=min(4, steps // 2),  # fewer than the decay has
                decay_steps=steps,
                adam_beta1=0.9,
                adam_beta2=0.95,
                adam_eps=1e-5,
                weight_decay=0.1,
                clip_grad=1.0,
            ),
            seed=inputs.SEED,
            validation_interval=0,
            validation_batches=0,
            save_interval=steps // 2,
            keep_checkpoints=2,
        )

    def longer(self, tensor: int = 1) -> PretrainSpec:
        """Return the small training whose sequences are twice as long from half of its steps on."""
        spec = self.small(tensor)
        begin = spec.tokens(self.spec.steps // 2)
        phase = dataclasses.replace(
            WHOLE, from_tokens=begin, sequence_length=LONGER * SMALL.seq_length
        )
        return dataclasses.replace(spec, phases=(WHOLE, phase))

    def large(self) -> PretrainSpec:
        """Return the training whose memory and step time are measured."""
        training = self.spec.training
        return dataclasses.replace(
            training,
            **self.inputs(training.model),
            validation_interval=0,
            validation_batches=0,
            save_interval=training.train_steps,
            keep_steps=(),
            async_save=False,
        )

    def inputs(self, shape: ModelSpec) -> dict[str, Any]:
        """Return the settings of data and folders; ``write_inputs`` writes the data."""
        tokenizer = self.folder / inputs.TOKENIZER
        vocabulary = VocabularySpec(
            base_size=shape.vocab_size,
            unused_rows=0,
            added_tokens=(),
            control_tokens=(),
            new_rows="repeat-last-row",
            eod_token=inputs.EOD,
            bos_token="",
            eos_token=inputs.EOD,
        )
        return {
            "corpora": (CorpusSpec(MAIN_CORPUS, (str(self.folder / inputs.TOKENS),)),),
            "phases": (WHOLE,),
            "tokenizer": TokenizerRef(str(tokenizer), sha256(tokenizer), vocabulary),
            "checkpoint_dir": "checkpoints",
            "tensorboard_dir": "tensorboard",
            "index_dir": "index",
            "max_epochs": None,
            "skip_steps": (),
        }

    def write_inputs(self) -> None:
        """Write the tokens and the tokenizer of all trainings. Call it on rank 0."""
        training = self.spec.training
        rows = min(SMALL.vocab_size, training.model.vocab_size)
        large = training.global_batch_size * training.model.seq_length
        longest = self.small_batch * LONGER * SMALL.seq_length
        inputs.write(self.folder, rows, (large, longest))

    def reference(self) -> Training:
        """Return the small training without tensor parallelism, trained once, with checkpoints of
        step 0, of half of its steps, and of all.
        """
        return self.once("reference", self.small())

    def once(
        self, name: str, spec: PretrainSpec, start: Path | None = None, kind: str = layers.BEST
    ) -> Training:
        """Train as ``train`` does, unless an earlier trial has."""
        run = RunDir(self.folder / name)
        if devices.decide_once(lambda: run.done(STAGE, 0).exists()):
            return self.read(run)
        return self.train(name, spec, start, kind)

    def train(
        self,
        name: str,
        spec: PretrainSpec,
        start: Path | None = None,
        kind: str = layers.BEST,
        profile: ProfileRequest | None = None,
    ) -> Training:
        """Train to the end, as all ranks; from a checkpoint of another training if given.

        Args:
            name: of the folder, new for each training.
            start: copied into it.
            kind: of the layers, as ``layers.chosen`` takes it.
            profile: of the training's steps.
        """
        run = RunDir(self.folder / name)

        def prepare() -> None:
            shutil.rmtree(run.root, ignore_errors=True)
            make_folder(run.path("checkpoints"))
            if start is not None:
                shutil.copytree(start, run.path("checkpoints") / start.name)
            sample_index.build(run, spec)
            if profile is not None:
                write_request(run, profile)

        devices.decide_once(prepare)
        self.context.heart.beat(Phase.STARTUP, 0)
        task = dataclasses.replace(self.context.task, stage=STAGE, spec=spec)
        with layers.chosen(kind):
            model.start_parallel(spec.parallel, spec.seed)
            context = dataclasses.replace(self.context, run=run, task=task)
            trainer.train(context, spec, self.device, Pretraining.open)
        model.end_parallel()
        gc.unfreeze()  # the training loop has frozen what was alive
        gc.collect()
        torch.cuda.empty_cache()
        return self.read(run)

    def read(self, run: RunDir) -> Training:
        """Return what a training logged."""
        lines = list(MetricsLog(run, STAGE).read_new()) if self.context.rank == 0 else []
        steps = [line for line in lines if isinstance(line, StepLine)]
        return Training(
            run,
            losses={line.step: line.loss for line in steps},
            norms={line.step: line.grad_norm for line in steps},
            seconds={line.step: line.seconds for line in steps},
            saves=[(line.bytes, line.written) for line in lines if isinstance(line, SaveLine)],
            periods=[line for line in lines if isinstance(line, PeriodLine)],
        )
