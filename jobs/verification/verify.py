"""Compare what a Hugging Face folder computes with what a checkpoint of ours computes.

The folder is computed by ``jobs.verification.reference``, the checkpoint by the engine's own layers
on the CPU. Both hold one layer at a time, so that small and large models take the same path.
"""

from __future__ import annotations

import itertools
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from jobs.contract.errors import TaskError
from jobs.contract.stage_specs import ModelSpec, TokenizerRef
from jobs.conversion import weight_map
from jobs.data.tokenizer_file import Encoder
from jobs.runtime import memory
from jobs.verification import sides, texts
from jobs.verification.figures import Difference, Rates
from jobs.verification.result import AddedRows, Generation, Verification
from jobs.verification.sides import Checkpoint, Rounded, Weights

if TYPE_CHECKING:
    import torch

TOLERANCE = 1e-4
"""Largest difference of a logit in fp32 that is accepted. The tests of Megatron-LLM accept a mean
difference of 1e-3 (epfLLM/Megatron-LLM:tests/test_llama_weights.py)."""

TOKENS = 128
"""Tokens of each text that are compared."""

GENERATED = 48
"""Tokens of a continuation."""

MEMORY_MARGIN = 1.25
"""Memory of a generation relative to the model's weights; guessed."""

HINT_TOKENIZER = "`meditron tokenizer build --help` shows how to make a tokenizer.json"

Report = Callable[[str, int, int], None]
"""Called with a side's name and how many of its layers, or tokens, are done, of how many."""


@dataclass(frozen=True)
class Request:
    """The two sides, and how they are compared."""

    weights: Path
    """Folder with ``config.json`` and safetensors."""
    checkpoint: Path
    model: ModelSpec
    """Of the run that the checkpoint belongs to."""
    tokenizer: TokenizerRef
    base: Path | None = None
    """Step 0 of the run, whose generations are shown beside those of a trained checkpoint."""
    texts: Mapping[str, str] = field(default_factory=dict)
    """Texts to compare beside ours, by name."""
    tokens: int = TOKENS
    precision: str = "fp32"
    tolerance: float = TOLERANCE
    threads: int = 0
    """CPU threads; 0 keeps torch's default."""
    available: Callable[[], int] = memory.available
    """Return the bytes that this process may use for generation."""


def verify(request: Request, report: Report = lambda side, done, total: None) -> Verification:
    """Compare logits, the rows of added tokens, and generations where the model fits into memory.

    It joins a process group of its own on the CPU, so the caller has none.

    Raises:
        TaskError: a side cannot be used, or the two are not of one architecture.
        OSError: the storage does not respond.
    """
    from jobs.engine import device as devices

    started = time.monotonic()
    checkpoint = sides.open_checkpoint(request.checkpoint, request.model, request.tokenizer)
    base = request.tokenizer.vocabulary.base_size or request.model.vocab_size
    weights = sides.open_weights(request.weights, request.model, base)
    place = devices.start("cpu", 0, 1, 0, request.threads)
    try:
        from jobs.engine import layerwise, model

        model.start_parallel(layerwise.ALONE, seed=0)
        try:
            return _Comparison(request, weights, checkpoint, place, report).run(started)
        finally:
            model.end_parallel()
    finally:
        devices.end()


class _Comparison:
    """A verification while it runs."""

    def __init__(
        self,
        request: Request,
        weights: Weights,
        checkpoint: Checkpoint,
        place: torch.device,
        report: Report,
    ) -> None:
        self.request = request
        self.weights = weights
        self.checkpoint = checkpoint
        self.place = place
        self.report = report
        self.encoder = Encoder.load(request.tokenizer)
        self.skipped: list[str] = []
        """Clauses about what could not be compared."""
        self.rows = min(weights.rows, checkpoint.model.vocab_size)
        kinds = {weights.dtype, checkpoint.dtype}
        self.rounded_to = sorted(map(_name, kinds - {_float32()})) if len(kinds) > 1 else []
        self.rounded: Rounded = sides.rounding([_dtype(name) for name in self.rounded_to])

    def run(self, started: float) -> Verification:
        """Compare everything."""
        tokens = self.encode_texts()
        differences = self.compare(tokens)
        generation, reason = self.generate()
        added = self.added_rows()
        record = self.checkpoint.record
        return Verification(
            weights=str(self.request.weights),
            checkpoint=str(self.request.checkpoint),
            step=record.iteration,
            origin=str(record.origin.get("weights") or ""),
            precision=self.request.precision,
            rounded_to=tuple(self.rounded_to),
            tolerance=self.request.tolerance,
            rows=self.rows,
            texts=differences,
            logits=Difference.over_all(list(differences.values())),
            tensors={
                "weights": len(self.tensors_of_weights()),
                "checkpoint": len(weight_map.checkpoint_shapes(self.checkpoint.model)),
            },
            added_rows=added,
            generation=generation,
            not_verified=tuple(self.not_verified(added, reason)),
            versions=_versions(),
            seconds=round(time.monotonic() - started, 3),
        )

    def encode_texts(self) -> dict[str, torch.Tensor]:
        """Return the token ids of every text, cut to the requested number; of our own texts, those
        that the tokenizer can encode.

        Raises:
            TaskError: a given text is empty, or has a token that the folder does not know; or none
                of ours can be encoded.
        """
        import torch

        found = {}
        named = {**texts.texts(), **self.request.texts}
        for name, ids in zip(named, self.ids(list(named.values())), strict=True):
            if ids and max(ids) < self.rows:
                found[name] = torch.tensor(ids[: self.request.tokens])
            elif name in self.request.texts:
                problem = f"it has the token {max(ids)}" if ids else "it is empty"
                raise TaskError(
                    f"{name}: {problem}; {self.request.weights} has {self.rows} tokens",
                    "give a text without added tokens",
                )
            else:
                self.skipped.append(f"the text {name!r}, which the tokenizer cannot encode")
        if not found:
            raise TaskError(
                f"{self.request.tokenizer.path} encodes none of the texts to compare",
                HINT_TOKENIZER,
            )
        return found

    def ids(self, given: Sequence[str]) -> list[list[int]]:
        """Return the token ids of texts, each after BOS where documents have one."""
        first = [] if self.encoder.bos is None else [self.encoder.bos]
        return [first + ids for ids in self.encoder.encode_all(given)]

    def compare(self, tokens: Mapping[str, torch.Tensor]) -> dict[str, Difference]:
        """Return the difference of logits per text."""
        import torch

        from jobs.engine import layerwise, model

        layers = self.checkpoint.model.layers
        network = layerwise.build(
            self.checkpoint.model,
            self.request.precision,
            self.place,
            lambda key, layer: self.rounded(self.checkpoint.reader.read(key, layer)),
            lambda done: self.report("layers of the checkpoint", done, layers),
        )
        batch = torch.nn.utils.rnn.pad_sequence(list(tokens.values()), batch_first=True)
        ours = model.logits(network, batch)
        del network
        theirs = self.reference(self.read).logits(
            list(tokens.values()), lambda done: self.report("layers of the weights", done, layers)
        )
        return {
            name: Difference.between(one[:, : self.rows], other[: len(one), : self.rows])
            for name, one, other in zip(tokens, theirs, ours, strict=True)
        }

    def reference(self, read: Callable[[str], torch.Tensor]) -> Any:
        from jobs.verification.reference import Reference

        return Reference(self.checkpoint.model, read)

    def read(self, name: str) -> torch.Tensor:
        """Return a tensor of the folder in the precision of the computation."""
        precision = "bfloat16" if self.request.precision == "bf16" else "float32"
        return self.rounded(self.weights.read(name)).to(_dtype(precision))

    def tensors_of_weights(self) -> list[str]:
        """Return the names of the folder's tensors that are computed with."""
        return list(weight_map.folder_shapes(self.checkpoint.model, self.weights.rows))

    def added_rows(self) -> AddedRows | None:
        """Compare the rows beyond the folder's vocabulary with the rule for new ones, at step 0."""
        model, rule = self.checkpoint.model, self.request.tokenizer.vocabulary.new_rows
        if self.rows == model.vocab_size:
            return None
        last = model.vocab_size - 1
        if self.checkpoint.record.iteration != 0:
            return AddedRows(self.rows, last, expected="", equal=False)
        equal = all(self.follows(rule, key) for key in self.checkpoint.vocabularies())
        return AddedRows(self.rows, last, rule, equal)

    def follows(self, rule: str, key: str) -> bool:
        """Return whether the added rows of a vocabulary follow a rule, up to the rounding of a
        mean.
        """
        import torch

        stored = self.checkpoint.reader.read(key, None)
        base = stored[: self.rows].float()
        added = stored[self.rows : self.checkpoint.model.vocab_size].float()
        if rule == "mean":
            precision = torch.finfo(stored.dtype).eps
            return torch.allclose(added, base.mean(0).expand_as(added), precision, precision)
        token = rule.removeprefix("copy:")
        source = self.rows - 1 if token == rule else self.encoder.tokenizer.token_to_id(token)
        return torch.equal(added, base[source].expand_as(added))

    def generate(self) -> tuple[Generation | None, str]:
        """Continue the prompts with every side; return the reason where the model is too large."""
        needed = int(MEMORY_MARGIN * 4 * self.checkpoint.model.parameters)
        free = self.request.available()
        if needed > free:
            return None, f"generation, which takes {_gib(needed)} of memory, {_gib(free)} are free"
        prompts = texts.prompts()
        ids = self.ids(prompts)
        if not all(ids):
            return None, "generation, whose prompts the tokenizer cannot encode"
        eos = self.request.tokenizer.vocabulary.eos_token
        stop = {cast(int, self.encoder.tokenizer.token_to_id(eos)), *self.weights.stop_tokens()}
        found = {"weights": self.continue_weights(ids, stop)}
        found["checkpoint"] = self.continue_checkpoint(self.request.checkpoint, ids, stop)
        if self.request.base is not None and self.checkpoint.record.iteration:
            found["base"] = self.continue_checkpoint(self.request.base, ids, stop)
        pairs = zip(found["weights"], found["checkpoint"], strict=True)
        return Generation(
            tokens=GENERATED,
            prompts=prompts,
            continuations={
                side: tuple(self.encoder.tokenizer.decode(ids) for ids in continued)
                for side, continued in found.items()
            },
            rates={
                side: Rates.of(ids, [_without_end(text, stop) for text in continued], GENERATED)
                for side, continued in found.items()
            },
            equal=sum(one == other for one, other in pairs),
        ), ""

    def continue_weights(self, prompts: list[list[int]], stop: set[int]) -> list[list[int]]:
        """Return the folder's most likely continuations, all its tensors in memory."""
        import torch

        kept = {name: self.read(name) for name in self.tensors_of_weights()}
        reference = self.reference(kept.__getitem__)
        found: list[list[int]] = [[] for _ in prompts]
        for number in range(GENERATED):
            self.report("continuations of the weights", number, GENERATED)
            growing = [place for place, ids in enumerate(found) if not stop & set(ids[-1:])]
            if not growing:
                break
            tokens = [torch.tensor(prompts[place] + found[place]) for place in growing]
            for place, scores in zip(growing, reference.logits(tokens), strict=True):
                found[place].append(int(scores[-1, : self.rows].argmax()))
        return found

    def continue_checkpoint(
        self, path: Path, prompts: list[list[int]], stop: set[int]
    ) -> list[list[int]]:
        """Return the most likely continuations of a checkpoint, all of it in memory."""
        import torch

        from jobs.engine import checkpoint, layerwise, model

        network: Any = model.build(
            self.checkpoint.model,
            layerwise.ALONE,
            self.request.precision,
            self.place,
            for_inference=True,
        )
        checkpoint.load_weights(path, network)
        with torch.no_grad():
            for weight in network.parameters():
                weight.copy_(self.rounded(weight))
        network.scored_tokens = self.rows
        calls = itertools.count()
        title = "continuations of the checkpoint"
        network.register_forward_pre_hook(lambda *_: self.report(title, next(calls), GENERATED))
        return model.greedy(network, prompts, GENERATED, stop)

    def not_verified(self, added: AddedRows | None, reason: str) -> list[str]:
        """Return what this verification shows nothing about."""
        other = "fp32" if self.request.precision == "bf16" else "bf16"
        missing = ["GPUs and the layers of transformer-engine", f"a computation in {other}"]
        if added is not None and not added.expected:
            missing.append(f"rows {added.first} to {added.last} of the vocabulary")
        return [
            *missing,
            f"texts of more than {self.request.tokens} tokens",
            *filter(None, [reason]),
        ]


def _without_end(ids: list[int], stop: set[int]) -> list[int]:
    return ids[:-1] if stop & set(ids[-1:]) else ids


def _float32() -> torch.dtype:
    return _dtype("float32")


def _dtype(name: str) -> torch.dtype:
    import torch

    dtype: torch.dtype = getattr(torch, name)
    return dtype


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _gib(count: int) -> str:
    return f"{count / (1 << 30):.1f} GiB"


def _versions() -> dict[str, str]:
    """Return the versions of what computed, by name."""
    names = ("meditron", "torch", "megatron-core", "safetensors", "tokenizers")
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
