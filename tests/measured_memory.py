"""The memory of one rank of a real training, by part, beside that of the plan.

A dispatch mode sees every operation of the rank, also of its backward passes, and counts the
storage of each result until the storage ends: all tensors, whoever holds them. It does not see what
an operation allocates and frees inside, nor memory of the interpreter and of libraries. torch's
profiler sees the former, and finds the same peaks on one rank to 1 %, but it misses what gloo's
threads free.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import sys
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from jobs.contract.stage_specs import ModelSpec, ParallelSpec, PretrainSpec
from meditron_cli.config.load import load
from meditron_cli.plan import memory
from meditron_cli.plan.layout import BatchLayout
from meditron_cli.runs.prepare import plan_of

STEPS = 2
"""The first one has all of what later ones have, but for moments of the optimizer that exist."""


@dataclass(frozen=True)
class Case:
    """A training to measure."""

    parallel: ParallelSpec
    model: dict[str, int]
    """Sizes that differ from those of recipe ``tiny``."""
    precision: str = "bf16"
    micro: int = 2
    accumulation: int = 2

    @classmethod
    def of(cls, text: str) -> Case:
        """Return the case of a ``text``."""
        fields = json.loads(text)
        return cls(**{**fields, "parallel": ParallelSpec(**fields["parallel"])})

    @property
    def text(self) -> str:
        """Return it as JSON, for a rank."""
        return json.dumps(dataclasses.asdict(self))

    @property
    def name(self) -> str:
        """Return the layout and the kind of recomputation."""
        one = self.parallel
        return f"{one.tensor} x {one.pipeline} x {one.data}, {one.recompute}, {self.precision}"

    @property
    def spec(self) -> PretrainSpec:
        """Return the training."""
        spec = plan_of(load("local", "tiny", None, []), ("pretrain",)).stages[-1].tasks[0].spec
        assert isinstance(spec, PretrainSpec)
        return dataclasses.replace(
            spec,
            model=dataclasses.replace(spec.model, **self.model),
            parallel=self.parallel,
            precision=self.precision,
            micro_batch_size=self.micro,
            global_batch_size=self.micro * self.accumulation * self.parallel.data,
        )

    @property
    def planned(self) -> tuple[dict[str, int], ...]:
        """Return the plan's bytes of a rank of each pipeline stage, by part."""
        spec = self.spec
        batch = BatchLayout(spec.micro_batch_size, spec.global_batch_size, self.parallel.data)
        stages = memory.stages(spec.model, self.parallel, batch, self.precision, "cpu")
        return tuple(
            {
                "weights": stage.weights,
                "gradients": stage.gradients,
                "optimizer": stage.optimizer,
                "working": stage.working,
                "total": stage.total,
            }
            for stage in stages
        )


class LiveBytes(TorchDispatchMode):
    """A count of the bytes of tensors made in a ``with`` block."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, operation: Any, types: Any, inputs: Any = (), options: Any = None
    ) -> Any:
        """Run an operation and count the new storages among its results."""
        del types
        given = {storage._cdata for storage in storages((inputs, options))}
        results = operation(*inputs, **(options or {}))
        for storage in storages(results):
            if storage._cdata not in given:
                self._count(storage)
        return results

    def _count(self, storage: torch.UntypedStorage) -> None:
        address, size = storage._cdata, storage.nbytes()
        if address in self._known:
            return
        self._known.add(address)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, address, size)

    def _forget(self, address: int, size: int) -> None:
        self._known.discard(address)
        self.live -= size


def storages(values: Any) -> list[torch.UntypedStorage]:
    """Return the storages of all tensors in nested values."""
    return [
        value.untyped_storage() for value in tree_leaves(values) if isinstance(value, torch.Tensor)
    ]


def measure(case: Case, place: torch.device) -> dict[str, int]:
    """Train two steps as a rank; return the bytes of ``Case.planned`` by part, and the stage.

    ``working`` is the most beyond what is there between steps.
    """
    from jobs.engine import model, optim

    spec = case.spec
    model.start_parallel(spec.parallel, spec.seed)
    from megatron.core import parallel_state
    from megatron.core.pipeline_parallel import get_forward_backward_func

    with LiveBytes() as count:
        pieces = model.pieces(spec.model, spec.parallel, spec.precision, place)
        gc.collect()
        weights = count.live
        updater = optim.prepare(pieces, spec)
        gc.collect()
        states = count.peak = count.live
        for _ in range(STEPS):
            get_forward_backward_func()(
                forward_step_func=forward_step(spec.model, case.micro),
                data_iterator=[iter(()) for _ in pieces],
                model=updater.wrapped,
                num_microbatches=case.accumulation,
                seq_length=spec.model.seq_length,
                micro_batch_size=case.micro,
                forward_only=False,
            )
            updater.update(updater.norm())
    gradients = sum(
        buffer.grad_data.nbytes for piece in updater.wrapped for buffer in piece.buffers
    )
    return {
        "stage": parallel_state.get_pipeline_model_parallel_rank(),
        "weights": weights,
        "gradients": gradients,
        "optimizer": states - gradients - weights,
        "working": count.peak - states,
        "total": count.peak,
    }


def forward_step(spec: ModelSpec, micro: int) -> Any:
    """Return a forward pass on random tokens, as megatron.core's schedules call it."""

    def loss(output: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        total = output.float().sum()
        return total, torch.tensor(output.numel()), total.detach()

    def step(batches: Iterator[Any], network: Any) -> tuple[torch.Tensor, Any]:
        del batches
        tokens = torch.randint(spec.vocab_size, (micro, spec.seq_length))
        return network(tokens, None, None, labels=tokens), loss

    return step


def main(text: str) -> None:
    """Measure as one of the ranks; rank 0 prints what each pipeline stage's first rank measured."""
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    from jobs.engine import device

    place = device.start("cpu", rank, world, 0, threads=1)
    found: list[Any] = [None] * world
    torch.distributed.all_gather_object(found, measure(Case.of(text), place))
    stages = {one["stage"]: one for one in reversed(found)}
    if rank == 0:
        print(json.dumps({"stages": [stages[stage] for stage in sorted(stages)]}), flush=True)
    device.end()


if __name__ == "__main__":
    main(sys.argv[1])
