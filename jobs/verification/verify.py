"""Compare what a Hugging Face folder computes with what a checkpoint of ours computes.

The folder is computed by ``jobs.verification.reference``, the checkpoint by the engine's own layers
on the CPU. Both hold one layer at a time, so that small and large models take the same path.
"""

from __future__ import annotations

import itertools
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from jobs.contract.errors import TaskError
from jobs.contract.stage_specs import TOLERANCE, ModelSpec, TokenizerRef
from jobs.conversion import model_card, weight_map
from jobs.data import exported_tokenizer
from jobs.data.tokenizer_file import Encoder, require_content
from jobs.runtime import memory
from jobs.verification import sides, tensors, texts
from jobs.verification.figures import Difference, Rates
from jobs.verification.result import AddedRows, Generation, Verification
from jobs.verification.sides import Checkpoint, Rounded, Weights
from jobs.verification.tensors import Tensors

if TYPE_CHECKING:
    import torch

TOKENS = 128
"""Tokens of each text that are compared."""

GENERATED = 48
"""Tokens of a continuation."""

MEMORY_MARGIN = 1.6
"""Memory of a generation relative to the model's weights in fp32; measured: 1.57, the peak of the
whole process, for 596 million parameters stored in bf16."""

GENERATION_SECONDS = 1200
"""Longest generation that is begun, as computed from the time that logits took (guess)."""

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
    exported: bool = False
    """Whether an export of the run wrote the folder: its ids of tokens are those of the run."""
    finetuned: bool = False
    """Whether the checkpoint is a finetuned model's, whose answers end with their turn."""
    texts: Mapping[str, str] = field(default_factory=dict)
    """Texts to compare beside ours, by name."""
    tokens: int = TOKENS
    precision: str = "fp32"
    tolerance: float = TOLERANCE
    threads: int = 0
    """CPU threads; 0 keeps torch's default."""
    available: Callable[[], int] = memory.available
    """Return the bytes that this process may use for generation."""
    generation_seconds: float = GENERATION_SECONDS
    """Longest generation that is begun."""


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
    weights = sides.open_weights(request.weights, request.model, request.tokenizer.vocabulary)
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
        self.rows = weights.known
        kinds = {weights.dtype, checkpoint.dtype}
        self.rounded_to = sorted(map(_name, kinds - {_float32()})) if len(kinds) > 1 else []
        self.rounded: Rounded = sides.rounding([_dtype(name) for name in self.rounded_to])

    def run(self, started: float) -> Verification:
        """Compare everything."""
        tokens = self.encode_texts()
        began = time.monotonic()
        differences = self.compare(tokens)
        pace = (time.monotonic() - began) / (2 * sum(map(len, tokens.values())))
        generation, reason = self.generate(pace)
        compared = self.compare_tensors()
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
            exported=self.request.exported,
            tensors=compared,
            wrong_ids=tuple(self.wrong_ids()),
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

    def compare_tensors(self) -> Tensors:
        """Compare the values of every tensor of the folder, rows of both vocabularies included."""
        behind = self.request.tokenizer.vocabulary.size
        return tensors.compare(
            self.weights,
            self.checkpoint,
            self.rounded,
            [(0, self.rows), (max(self.rows, behind), self.weights.rows)],
            lambda done, total: self.report("tensors", done, total),
        )

    def wrong_ids(self) -> list[str]:
        """Return the ids in an export's configuration that are not those of the run's tokens."""
        if not self.request.exported:
            return []
        _, content = require_content(self.request.tokenizer)
        vocabulary = self.request.tokenizer.vocabulary
        if self.request.finetuned:
            vocabulary = replace(vocabulary, eos_token=model_card.END)
        return self.weights.wrong_ids(exported_tokenizer.special_ids(content, vocabulary))

    def added_rows(self) -> AddedRows | None:
        """Compare the rows beyond the folder's vocabulary with the rule for new ones, at step 0."""
        vocabulary = self.request.tokenizer.vocabulary
        if self.rows == self.checkpoint.model.vocab_size:
            return None
        rule, last = vocabulary.new_rows, vocabulary.size - 1
        if self.checkpoint.record.iteration != 0:
            return AddedRows(self.rows, last, expected="", equal=False)
        equal = all(self.follows(rule, key) for key in self.checkpoint.vocabularies())
        return AddedRows(self.rows, last, rule, equal)

    def follows(self, rule: str, key: str) -> bool:
        """Return whether the added rows of a vocabulary follow a rule, up to the rounding of a
        mean.
        """
        import torch

        read, first = self.checkpoint.reader.read, self.rows
        added = read(key, None, (first, self.request.tokenizer.vocabulary.size)).float()
        if rule == "mean":
            step = -(-self.checkpoint.model.padded_vocab_size // weight_map.MOST_CHUNKS)
            parts = ((start, min(start + step, first)) for start in range(0, first, step))
            total = sum(read(key, None, part).sum(0, dtype=torch.float64) for part in parts)
            mean = (cast(torch.Tensor, total) / first).float()
            precision = torch.finfo(self.checkpoint.dtype).eps
            return torch.allclose(added, mean.expand_as(added), precision, precision)
        token = rule.removeprefix("copy:")
        named = cast(int, self.encoder.tokenizer.token_to_id(token))
        source = first - 1 if token == rule else named
        return torch.equal(added, read(key, None, (source, source + 1)).float().expand_as(added))

    def generate(self, pace: float) -> tuple[Generation | None, str]:
        """Continue the prompts with every side; return the reason where the model is too large.

        Args:
            pace: seconds per position of one side, measured in the comparison of logits.
        """
        needed = int(MEMORY_MARGIN * 4 * self.checkpoint.model.parameters)
        free = self.request.available()
        if needed > free:
            return None, f"generation, which takes {_gib(needed)} of memory, {_gib(free)} are free"
        prompts = texts.prompts()
        ids = self.ids(prompts)
        if not all(ids):
            return None, "generation, whose prompts the tokenizer cannot encode"
        has_base = self.request.base is not None and self.checkpoint.record.iteration > 0
        seconds = pace * positions(ids) * (2 if has_base else 1)
        if seconds > self.request.generation_seconds:
            return None, f"generation, which would take about {seconds:.0f} s"
        eos = self.request.tokenizer.vocabulary.eos_token
        stop = {cast(int, self.encoder.tokenizer.token_to_id(eos)), *self.weights.stop_tokens()}
        found = {"weights": self.continue_weights(ids, stop)}
        found["checkpoint"] = self.continue_checkpoint(
            self.request.checkpoint, ids, stop, draft=found["weights"]
        )
        if self.request.base is not None and has_base:
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
        self,
        path: Path,
        prompts: list[list[int]],
        stop: set[int],
        draft: list[list[int]] | None = None,
    ) -> list[list[int]]:
        """Return the most likely continuations of a checkpoint, all of it in memory.

        Args:
            path: of the checkpoint.
            prompts: token ids.
            stop: tokens that end a continuation.
            draft: continuations that may be the same; one pass over all of them shows whether.
        """
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
        if draft is not None and follows_draft(network, prompts, draft):
            return draft
        return model.greedy(network, prompts, GENERATED, stop)

    def not_verified(self, added: AddedRows | None, reason: str) -> list[str]:
        """Return what this verification shows nothing about."""
        other = "fp32" if self.request.precision == "bf16" else "bf16"
        missing = ["GPUs and the layers of transformer-engine", f"a computation in {other}"]
        if not self.request.exported:
            missing.append("ids in generation_config.json, which are the base model's")
        if added is not None and not added.expected:
            missing.append(f"rows {added.first} to {added.last} of the vocabulary")
        if part := self.weights.replaced_part():
            missing.append(
                f"AutoTokenizer of transformers 5, which replaces the {part} of the folder's "
                "tokenizer.json and gives other ids (PreTrainedTokenizerFast does not)"
            )
        return [
            *missing,
            f"texts of more than {self.request.tokens} tokens",
            *filter(None, [reason]),
        ]


def positions(prompts: Sequence[Sequence[int]]) -> int:
    """Return the positions that one side computes to continue prompts, all anew for each token."""
    return sum(GENERATED * len(ids) + GENERATED * (GENERATED - 1) // 2 for ids in prompts)


def follows_draft(
    network: torch.nn.Module, prompts: Sequence[list[int]], draft: Sequence[list[int]]
) -> bool:
    """Return whether each token of the draft is the most likely one after those before it, which
    makes it the greedy continuation.
    """
    import torch

    from jobs.engine import model

    whole = [torch.tensor(ids + more) for ids, more in zip(prompts, draft, strict=True)]
    places = [
        (row, len(ids) - 1 + number)
        for row, (ids, more) in enumerate(zip(prompts, draft, strict=True))
        for number in range(len(more))
    ]
    tokens = torch.nn.utils.rnn.pad_sequence(whole, batch_first=True)
    best = model.logits_at(network, tokens, places).argmax(-1).tolist()
    return bool(best == [token for more in draft for token in more])


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
