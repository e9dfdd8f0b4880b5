"""The rules of a corpus, and how many tasks make it. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.contract.corpus.rules import (
    BenchmarkFile,
    CorpusRules,
    DecontaminationSpec,
    NearDuplicatesSpec,
    SourceSpec,
)
from jobs.contract.units import plural
from meditron_cli.config.data_files import place
from meditron_cli.plan.figures import size
from meditron_cli.plan.spec_parts import benchmark_options

if TYPE_CHECKING:
    from meditron_cli.config.corpus.schema import Curate, Source
    from meditron_cli.config.experiment_schema import Experiment
    from meditron_cli.plan.model import Plan

MB = 10**6
BYTES_PER_SECOND = 3 * MB
"""Cleaned by a core. Guessed, on the slow side."""
TASK_MB = 200
"""Of a task that takes about a minute at that speed."""
LONG_HOURS = 8
"""From which several tasks are proposed."""


def tasks(curate: Curate, source_bytes: int | None) -> int:
    """Return the number of tasks that clean: as many as set, as far as there is work for each.

    Args:
        curate: the settings.
        source_bytes: of all sources; None where not known.
    """
    least = task_mb(curate)
    if source_bytes is None or not least:
        return curate.tasks
    return max(1, min(curate.tasks, source_bytes // (least * MB)))


def task_mb(curate: Curate) -> int:
    """Return the MB of files per task at least: set, measured, or guessed."""
    return TASK_MB if curate.task_mb is None else curate.task_mb


def lines(plan: Plan, curate: Curate) -> Iterator[str]:
    """Yield a sentence where fewer tasks are planned than set."""
    planned = [len(stage.tasks) for stage in plan.stages if stage.stage == "clean"]
    if planned and planned[0] < curate.tasks:
        yield (
            f"{'clean':<12} {plural(planned[0], 'task')}, not {curate.tasks}: at least "
            f"{task_mb(curate)} MB of files each (curate.task_mb)"
        )


def warnings(planned: int, source_bytes: int | None) -> Iterator[str]:
    """Yield a sentence where a task would take long, with the number of tasks for an hour each."""
    hours = (source_bytes or 0) / planned / BYTES_PER_SECOND / 3600
    if hours > LONG_HOURS:
        enough = math.ceil(hours * planned)
        yield (
            f"curating {size(source_bytes or 0)} takes about {hours:.0f} hours at "
            f"{BYTES_PER_SECOND // MB} MB/s and task (guessed); --set curate.tasks={enough} takes "
            "about one"
        )


def rules_of(experiment: Experiment, data_dir: Path | None) -> CorpusRules:
    """Return what decides the bytes of the corpus.

    Args:
        data_dir: the folder of data sets on the hub.
    """
    curate = experiment.curate
    near, similarity = curate.near_duplicates, curate.near_duplicates.similarity
    return CorpusRules(
        sources=tuple(source_spec(curate, source, data_dir) for source in curate.named),
        on_bad_record=curate.on_bad_record,
        shards=curate.shards,
        seed=experiment.seed,
        mask=tuple(sorted(set(curate.mask))),
        drop=tuple(sorted(set(curate.drop))),
        upsample=curate.upsample.factor,
        upsample_date=curate.upsample.date,
        upsample_journals=curate.upsample.journals,
        upsample_citations=curate.upsample.citations,
        near_duplicates=NearDuplicatesSpec(similarity, near.words) if similarity else None,
        decontamination=decontamination(experiment, data_dir),
    )


def source_spec(curate: Curate, source: Source, data_dir: Path | None) -> SourceSpec:
    """Return one source, with the settings of the stage where it has none of its own."""
    unset = ("text_key", "id_key", "min_chars", "validation_fraction")
    common = {name: getattr(curate, name) for name in unset if getattr(source, name) is None}
    values = {name: getattr(source, name) for name in SourceSpec.__dataclass_fields__}
    path = str(place(source.path, data_dir) or source.path)
    return SourceSpec(**values | common | {"path": path, "name": source.name_or_default})


def decontamination(experiment: Experiment, data_dir: Path | None) -> DecontaminationSpec | None:
    """Return the benchmarks whose questions no document may contain; None without any."""
    settings = experiment.curate.decontaminate
    files = tuple(
        BenchmarkFile(
            item.name,
            str(place(item.path, data_dir) or item.path),
            item.kind,
            benchmark_options(experiment, item, data_dir, train=False),
        )
        for item in experiment.compared_benchmarks
    )
    return DecontaminationSpec(files, settings.ngram, settings.share) if files else None


def paths_of(rules: CorpusRules) -> tuple[str, ...]:
    """Return the files and folders that decide a corpus."""
    compared = rules.decontamination.benchmarks if rules.decontamination else ()
    return (*(source.path for source in rules.sources), *(item.path for item in compared))
