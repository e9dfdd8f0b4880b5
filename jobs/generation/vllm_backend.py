"""Generation by vLLM, on the GPUs of one node. Unproven: no test runs vLLM itself (docs/gpu.md).

vLLM batches requests as they come and go, so that the last bits of a logit, and with them a token
where two are nearly as probable, depend on what else is computed at the time. With
``VLLM_BATCH_INVARIANT=1`` in the environment they do not (vLLM's documentation, "Batch
Invariance"); a score records whether it was set.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from jobs.contract.errors import TaskError
from jobs.contract.files import parse_json
from jobs.generation.backend import LENGTH, STOPPED, VLLM, Alive, Generation, Sampling

INVARIANT = "VLLM_BATCH_INVARIANT"
HINT = "install the extra `serve` in an environment of its own, and name it in the profile's "
HINT += "environment.stages.generate"


class VllmBackend:
    """A model on one or several GPUs, in vLLM's own worker processes."""

    def __init__(
        self,
        folder: Path,
        *,
        tensor: int,
        alive: Alive,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        """Start the engine with the weights' own type: by itself vLLM halves fp32.

        Raises:
            TaskError: vLLM is not installed.
        """
        try:
            import vllm
        except ImportError as error:
            raise TaskError(f"vllm cannot be imported ({error})", HINT) from error
        config = parse_json((folder / "config.json").read_bytes())
        self._dtype = str(config.get("dtype") or config.get("torch_dtype") or "auto")
        self._alive = alive
        self._tensor = tensor
        self._params = vllm.SamplingParams
        self._version = str(vllm.__version__)
        self._invariant = environ.get(INVARIANT) == "1"
        self._engine = vllm.LLM(
            model=str(folder),
            tokenizer=str(folder),
            dtype=self._dtype,
            tensor_parallel_size=tensor,
            generation_config="vllm",  # not that of the folder
            seed=0,
        )

    @property
    def flags(self) -> dict[str, Any]:
        """Return the program and its settings."""
        return {
            "backend": VLLM,
            "version": self._version,
            "dtype": self._dtype,
            "device": "cuda",
            "tensor": self._tensor,
            "batch_invariant": self._invariant,
            "independent_of_tasks": self._invariant,
        }

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, seeds: Sequence[int]
    ) -> list[list[Generation]]:
        """Return the generations of each prompt; each has a seed of its own."""
        params = [
            self._params(
                n=sampling.samples,
                temperature=sampling.temperature,
                top_p=1.0,
                seed=seed,
                stop=list(sampling.stops),
                stop_token_ids=list(sampling.stop_tokens),
                max_tokens=sampling.max_tokens,
                frequency_penalty=sampling.frequency_penalty,
                logprobs=0,
            )
            for seed in seeds
        ]
        outputs = self._engine.generate(
            [{"prompt_token_ids": list(prompt)} for prompt in prompts],
            params,
            use_tqdm=partial(bar_class(), alive=self._alive, disable=True),
        )
        self._alive()
        return [
            [
                Generation(
                    tuple(sample.token_ids),
                    sample.text,
                    LENGTH if sample.finish_reason == "length" else STOPPED,
                    float(sample.cumulative_logprob),
                )
                for sample in sorted(output.outputs, key=lambda sample: sample.index)
            ]
            for output in outputs
        ]


def bar_class() -> Any:
    """Return a class of progress bars that reports each finished request, and draws nothing."""
    import tqdm

    class Bar(tqdm.tqdm):  # type: ignore[misc]
        def __init__(self, *arguments: Any, alive: Alive, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self._alive = alive

        def update(self, n: float | None = 1) -> Any:
            self._alive()
            return super().update(n)

    return Bar
