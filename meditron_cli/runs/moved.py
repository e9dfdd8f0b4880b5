"""Continue a run whose input files were moved or renamed.

A run's name holds a digest of absolute paths, and so do its specs and done markers. Input files
count as moved when the files named before are gone, those named now exist, nothing else in the
configuration differs, and the content is what the done markers recorded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jobs.contract import done_markers, specs
from jobs.contract.done_markers import DoneMarker
from jobs.contract.files import write_json
from jobs.contract.json_fields import to_fields
from jobs.contract.rundir import RunDir
from jobs.contract.stage_specs import READING_SOURCES, TRAINING_STAGES, Spec
from meditron_cli.config.experiment_schema import Experiment
from meditron_cli.config.identity import differences, run_name
from meditron_cli.config.load import Loaded
from meditron_cli.errors import ConfigError
from meditron_cli.plan.model import Plan
from meditron_cli.runs import store
from meditron_cli.runs.request import request_of_other

PATH_KEYS = {
    "curate.sources",
    "tokenize.tokenizer",
    "pretrain.data",
    "pretrain.validation_data",
}
"""Keys of an experiment that decide what is trained and hold paths."""
PATH_FIELDS = {
    "corpus.sources.path",
    "corpus.decontamination.benchmarks.path",
    "tokenizer.path",
    "path",
    "options.train",
    "instructions",
    "corpora.data",
    "corpora.validation_data",
    "data.path",
    "decontamination.benchmarks.path",
}
"""The same in specs."""
NAMED_BY_PATH = "corpus.sources.name"
"""Of a source without a name of its own; its documents keep the old one."""
WITH_DIGEST = (*READING_SOURCES, *TRAINING_STAGES)
"""Stages that read files of unknown content; a tokenizer's digest is part of each spec."""


def newest_run(root: Path, loaded: Loaded) -> str | None:
    """Return the name of the run that a submission continues, None for a new run: the newest of its
    identity, or the newest whose inputs were moved to where the experiment has them now.
    """
    experiment, cluster = loaded.experiment, loaded.cluster.name
    if newest := store.newest_of(root, run_name(experiment, loaded.size, cluster)):
        return newest
    for run in store.runs_of(root, f"{experiment.name}-{loaded.size}"):
        try:
            request = request_of_other(run)
        except ConfigError:  # a damaged record: nothing can continue the run
            continue
        same_cluster = request["cluster"].get("name") == cluster
        if same_cluster and is_moved(run, experiment, request["experiment"]):
            return run.name
    return None


def is_moved(run: RunDir, experiment: Experiment, recorded: Mapping[str, Any]) -> bool:
    """Return whether an experiment is the recorded one with its input files elsewhere; true too for
    a run that was continued after such a move.
    """
    keys = differences(experiment, recorded)
    if not keys:
        return True
    if not PATH_KEYS.issuperset(keys):
        return False
    current = experiment.model_dump(mode="json")
    moves = dict(
        pair for key in keys for pair in pairs(value_of(recorded, key), value_of(current, key))
    )
    files = (path for stage in WITH_DIGEST for path in run.done_folder(stage).glob("[0-9]*.json"))
    markers = map(done_markers.read, files)
    return have_moved(moves) and all(
        same_content(run, marker, moves) for marker in markers if marker is not None
    )


def adopt(plan: Plan, run: RunDir) -> list[str]:
    """Rewrite the done markers of tasks whose inputs were moved, for the specs of the plan; return
    the stages.
    """
    stages: dict[str, None] = {}
    for stage in plan.stages:
        for task in stage.tasks:
            path = run.done(stage.stage, task.index)
            marker, digest = done_markers.read(path), specs.digest(task.spec)
            if marker is None or marker.spec == digest:
                continue
            old = specs.read_task(run, stage.stage, task.index)
            if old is None or specs.digest(old.spec) != marker.spec:
                continue
            moves = spec_moves(old.spec, task.spec)
            if have_moved(moves) and same_content(run, marker, moves):
                inputs = tuple(moved_inputs(marker, moves))
                write_json(path, to_fields(replace(marker, spec=digest, inputs=inputs)))
                stages[stage.stage] = None
    return list(stages)


def spec_moves(old: Spec, new: Spec) -> dict[str, str]:
    """Return old and new paths of two specs that differ in nothing else; empty if they do."""
    before, after = flat(specs.to_json(old)), flat(specs.to_json(new))
    changed = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
    fields = {key: re.sub(r"\.\d+\.", ".", key) for key in changed}
    if not {*PATH_FIELDS, NAMED_BY_PATH}.issuperset(fields.values()):
        return {}
    changed = {key for key in changed if fields[key] != NAMED_BY_PATH}
    return dict(pair for key in changed for pair in pairs(before.get(key), after.get(key)))


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested JSON values by their dotted keys, in which list items have numbers."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        inner = value
        if isinstance(value, list) and any(isinstance(item, dict) for item in value):
            inner = {str(number): item for number, item in enumerate(value)}
        if isinstance(inner, dict):
            result.update(flat(inner, f"{prefix}{key}."))
        else:
            result[prefix + key] = inner
    return result


def pairs(old: Any, new: Any) -> Iterator[tuple[str, str]]:
    """Yield the differing paths of two values, each a path, or a list of paths and of sections with
    one, in order.
    """
    olds, news = ([value] if isinstance(value, str) else value or [] for value in (old, new))
    if len(olds) != len(news):
        yield "/", "/"  # another number of files is not a move: "/" exists
        return
    for one, other in zip(olds, news, strict=True):
        if isinstance(one, dict) and isinstance(other, dict) and one != other:
            same = {**one, "path": ""} == {**other, "path": ""}
            yield (one["path"], other["path"]) if same else ("/", "/")
        elif one != other:
            yield (one, other) if isinstance(one, str) and isinstance(other, str) else ("/", "/")


def value_of(experiment: Mapping[str, Any], key: str) -> str | Sequence[str] | None:
    """Return a value of an experiment by its dotted key."""
    section, _, name = key.partition(".")
    value: str | Sequence[str] | None = experiment[section][name]
    return value


def have_moved(moves: Mapping[str, str]) -> bool:
    """Return whether all old paths are gone and all new ones exist; false where a folder of them
    cannot be read.
    """
    try:
        return bool(moves) and all(not exists(old) and exists(new) for old, new in moves.items())
    except OSError:
        return False


def exists(path: str) -> bool:
    """Return whether a file, a folder, or an indexed dataset of this prefix exists."""
    return Path(path).exists() or Path(f"{path}.idx").exists()


def same_content(run: RunDir, marker: DoneMarker, moves: Mapping[str, str]) -> bool:
    """Return whether the inputs of a marker are unchanged at their new places."""
    return all(
        done_markers.is_unchanged(run, item)
        for item in moved_inputs(marker, moves)
        if item not in marker.inputs
    )


def moved_inputs(marker: DoneMarker, moves: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the inputs of a marker with their new paths."""
    return [{**item, "path": moved_path(item["path"], moves)} for item in marker.inputs]


def moved_path(path: str, moves: Mapping[str, str]) -> str:
    """Return where a file is now: a moved one, one in a moved folder, or one of a dataset."""
    for old, new in moves.items():
        if path in (old, f"{old}.bin", f"{old}.idx") or path.startswith(f"{old}/"):
            return new + path[len(old) :]
    return path
