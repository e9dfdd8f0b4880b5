"""Generation by ``transformers``, in batches with a key-value cache: for small models and tests.

Tokens are sampled by adding to each logit, divided by the temperature, noise that follows Gumbel's
distribution, and taking the largest sum, which draws from the softmax exactly (E. J. Gumbel 1954).
The noise is that of the item's own generator, so that neither the batch nor the task of an item
changes what is drawn. Logits of a row depend on its batch in their last bits: the same batches give
the same tokens on the same hardware, and other batches do except where two tokens are as probable
but for rounding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tokenizers
import torch

from jobs.contract.errors import TaskError
from jobs.generation.backend import LENGTH, STOPPED, TRANSFORMERS, Alive, Generation, Sampling, cut

HINT = "install the extra: `pip install 'meditron[generate]'`"


class TransformersBackend:
    """A model on one device."""

    def __init__(self, folder: Path, *, device: str, alive: Alive) -> None:
        """Load a folder in the type of its weights.

        Raises:
            TaskError: transformers is not installed, or cannot load the folder.
        """
        try:
            import transformers
        except ImportError as error:
            raise TaskError(f"transformers cannot be imported ({error})", HINT) from error
        try:
            model = transformers.AutoModelForCausalLM.from_pretrained(
                folder, dtype="auto", local_files_only=True, use_safetensors=True
            )
        except (OSError, ValueError, KeyError) as error:
            message = f"{folder}: transformers does not load it ({error})"
            raise TaskError(
                message, "check the folder; of a checkpoint, export it again"
            ) from error
        self._alive = alive
        self._model = model.to(device).eval()
        # A generation takes its settings from here; those of the folder would mix with ours.
        self._model.generation_config = transformers.GenerationConfig()
        self._tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._version = transformers.__version__

    @property
    def flags(self) -> dict[str, Any]:
        """Return the program and its settings."""
        return {
            "backend": TRANSFORMERS,
            "version": self._version,
            "torch": torch.__version__,
            "dtype": str(self._model.dtype).removeprefix("torch."),
            "device": self._model.device.type,
            "independent_of_tasks": True,
        }

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, seeds: Sequence[int]
    ) -> list[list[Generation]]:
        """Return the generations of each prompt, all of them as one batch."""
        import transformers

        rows = [list(prompt) for prompt in prompts for _ in range(sampling.samples)]
        tokens, mask = left_padded(rows)
        device = self._model.device
        row_seeds = [seed + sample for seed in seeds for sample in range(sampling.samples)]
        choice = Choice(sampling, tokens.shape[1], row_seeds)
        end = End(sampling, tokens.shape[1], self._tokenizer, self._alive)
        with torch.inference_mode():
            output = self._model.generate(
                input_ids=tokens.to(device),
                attention_mask=mask.to(device),
                max_new_tokens=sampling.max_tokens,
                do_sample=False,
                num_beams=1,
                use_cache=True,
                pad_token_id=0,
                logits_processor=transformers.LogitsProcessorList([choice]),
                stopping_criteria=transformers.StoppingCriteriaList([end]),
            )
        generated = output[:, tokens.shape[1] :].tolist()
        logprobs = choice.of_tokens(output)
        found = [
            self._generation(ids[: end.steps.get(row)], logprobs[row], row in end.steps, sampling)
            for row, ids in enumerate(generated)
        ]
        n = sampling.samples
        return [found[start : start + n] for start in range(0, len(found), n)]

    def _generation(
        self, ids: list[int], logprobs: list[float], stopped: bool, sampling: Sampling
    ) -> Generation:
        text = self._tokenizer.decode(ids, skip_special_tokens=True)
        finish = STOPPED if stopped else LENGTH
        logprob = math.fsum(logprobs[: len(ids)])
        return Generation(tuple(ids), cut(text, sampling.stops), finish, logprob)


def left_padded(rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return int64 ``[rows, longest]`` with the tokens at the right end, and the mask of them."""
    longest = max(map(len, rows))
    tokens = torch.zeros(len(rows), longest, dtype=torch.int64)
    mask = torch.zeros(len(rows), longest, dtype=torch.int64)
    for number, row in enumerate(rows):
        tokens[number, longest - len(row) :] = torch.tensor(row)
        mask[number, longest - len(row) :] = 1
    return tokens, mask


class Choice:
    """The logits processor: makes the largest logit the one that is drawn, and records
    log-probabilities.
    """

    def __init__(self, sampling: Sampling, start: int, seeds: Sequence[int]) -> None:
        self._sampling = sampling
        self._start = start
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._last: torch.Tensor | None = None
        self._chosen: list[torch.Tensor] = []

    def __call__(self, tokens: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return the scores of the next tokens behind ``tokens``."""
        self._record(tokens)
        scores = scores.float()
        self._last = scores.log_softmax(-1)
        before = tokens[:, self._start :]
        if self._sampling.frequency_penalty and before.shape[1]:
            penalty = torch.full_like(before, -1, dtype=scores.dtype)
            penalty *= self._sampling.frequency_penalty
            scores = scores.scatter_add(1, before, penalty)
        if self._sampling.temperature > 0:
            scores = scores / self._sampling.temperature + self._noise(scores)
        return scores

    def _noise(self, scores: torch.Tensor) -> torch.Tensor:
        waits = torch.empty(scores.shape, dtype=torch.float32)
        for row, generator in zip(waits, self._generators, strict=True):
            row.exponential_(generator=generator)
        return -waits.log().to(scores.device)

    def _record(self, tokens: torch.Tensor) -> None:
        if self._last is not None:
            self._chosen.append(self._last.gather(1, tokens[:, -1:])[:, 0].cpu())

    def of_tokens(self, tokens: torch.Tensor) -> list[list[float]]:
        """Return the log-probability of each generated token, by row; ``tokens`` are the output."""
        self._record(tokens)
        rows: list[list[float]] = torch.stack(self._chosen, dim=1).tolist()
        return rows


class End:
    """The stopping criterion: a row ends with a stop token or a stop string."""

    def __init__(
        self, sampling: Sampling, start: int, tokenizer: tokenizers.Tokenizer, alive: Alive
    ) -> None:
        self._sampling = sampling
        self._start = start
        self._tokenizer = tokenizer
        self._alive = alive
        # A token that is seen has a character or more, but for pieces of one.
        self._tail = 4 * max(map(len, sampling.stops), default=0)
        self.steps: dict[int, int] = {}
        """Generated tokens of the rows that have ended."""

    def __call__(self, tokens: torch.Tensor, scores: Any, **unused: Any) -> torch.Tensor:
        """Return which rows have ended."""
        del scores, unused
        self._alive()
        step = tokens.shape[1] - self._start
        tails = tokens[:, max(self._start, tokens.shape[1] - max(1, self._tail)) :].tolist()
        for row, tail in enumerate(tails):
            if row not in self.steps and self._ends(tail):
                self.steps[row] = step
        ended = [row in self.steps for row in range(len(tails))]
        return torch.tensor(ended, device=tokens.device)

    def _ends(self, tail: list[int]) -> bool:
        if tail[-1] in self._sampling.stop_tokens:
            return True
        if not self._sampling.stops:
            return False
        text = self._tokenizer.decode(tail, skip_special_tokens=True)
        return any(stop in text for stop in self._sampling.stops)
