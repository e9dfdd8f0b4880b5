"""The stages that make tokens of sources: settings of one task of each. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass, field

from jobs.contract.corpus.rules import CorpusRules
from jobs.contract.stage_specs.model import ASIDE, TokenizerRef


@dataclass(frozen=True)
class CleanSpec:
    """Read some pieces of the sources, clean their documents, and drop what no other document
    decides.
    """

    corpus: CorpusRules
    part: int
    """Number of this task, from 0; its pieces are those with ``number % parts == part``."""
    parts: int
    output_dir: str
    """Relative: ``corpus``; pieces are in ``pieces`` below it."""


@dataclass(frozen=True)
class DeduplicateSpec:
    """Find equal documents, works that are there twice, and near duplicates in all pieces."""

    corpus: CorpusRules
    parts: int
    """Tasks that cleaned."""
    output_dir: str
    """As in ``CleanSpec``."""


@dataclass(frozen=True)
class CurateSpec:
    """Write JSONL shards of the documents that are kept."""

    corpus: CorpusRules
    part: int
    """Number of this task, from 0."""
    parts: int
    whole: bool
    """The only task, which cleans and finds duplicates too."""
    output_dir: str
    """Relative: ``corpus``. Holds ``train/00000.jsonl …``, ``validation/00000.jsonl``,
    ``manifest.json``.
    """


@dataclass(frozen=True)
class TokenizeSpec:
    """Turn JSONL shards into Megatron indexed datasets."""

    inputs: tuple[str, ...]
    """Relative paths of JSONL shards written by curate."""
    output_prefixes: tuple[str, ...]
    """Relative path of each shard's first dataset, without suffix; others have a number behind."""
    part: int
    parts: int
    """The task takes every ``parts``-th stretch of each shard, from ``part`` on."""
    shard_tokens: int
    """Most tokens of a dataset, unless its only document has more."""
    tokenizer: TokenizerRef
    text_key: str
    model_vocab_size: int
    """Rows of the model's embedding before padding; ids must be below it."""
    special_tokens_in_text: bool
    """True: the name of an added token inside a text becomes that token. False: it is ordinary
    text, and tokens stand where the curator put them.
    """
    engine: str = field(default="auto", metadata={ASIDE: True})
    """``gigatoken``, ``tokenizers``, or ``auto``: the first where it gives the ids of the second.
    """

    @property
    def output_prefix(self) -> str:
        """Return the path of the task's first dataset, without suffix."""
        return numbered(self.output_prefixes[0], self.part)


def numbered(prefix: str, number: int) -> str:
    """Return the path of a dataset of a shard, by the number of its stretch, from 0."""
    return f"{prefix}-{number:04d}" if number else prefix
