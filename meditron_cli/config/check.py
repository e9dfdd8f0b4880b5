"""Check one file alone: an experiment, a recipe or a profile, distinguished by its keys."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meditron_cli.config import load, yaml_tree
from meditron_cli.config.cluster_schema import Cluster
from meditron_cli.config.corpus.schema import Curate
from meditron_cli.config.decode import check_part, decode, placeholder_problems
from meditron_cli.config.diagnostics import Problems
from meditron_cli.config.evaluation.schema import Evaluate
from meditron_cli.config.experiment_schema import Experiment
from meditron_cli.config.files import read_mapping
from meditron_cli.config.section import Section
from meditron_cli.config.training.finetune import Finetune
from meditron_cli.config.yaml_tree import MapNode


@dataclass(frozen=True)
class Checked:
    """The kind of a file, and its errors."""

    file: str
    kind: str
    """``experiment`` (a recipe is one too), ``cluster``, or ``unreadable``."""
    errors: tuple[str, ...]
    placeholders: tuple[str, ...]
    hints: tuple[str, ...] = ()
    """About the errors."""
    absent: tuple[str, ...] = ()
    """Sentences about inputs that are not named or not on this machine, so that none was checked.
    """
    warnings: tuple[str, ...] = ()
    """Of the plan on a cluster."""
    part: Experiment | None = None
    """The sections of a valid experiment that name files to read; the others are left out."""


def check_file(path: Path) -> Checked:
    """Check a file; other layers may complete an experiment, a profile must be whole."""
    problems = Problems()
    root = read_mapping(path, "experiment", problems)
    if root is None:
        errors, hints = tuple(problems.lines()), tuple(problems.hints())
        return Checked(str(path), "unreadable", errors, (), hints)
    if is_profile(root):
        load.decode_profile(root, problems)
        placeholders = tuple(map(str, placeholder_problems(root)))
        return Checked(str(path), "cluster", tuple(problems.lines()), placeholders)
    check_part(Experiment, root, problems)
    if problems:
        return Checked(str(path), "experiment", tuple(problems.lines()), ())
    sections: dict[str, Any] = dict(own_sections(root))
    part = Experiment.model_construct(**sections)
    absent = tuple(load.missing_files(part, root))
    return Checked(str(path), "experiment", (), (), absent=absent, part=part)


def own_sections(root: MapNode) -> Iterator[tuple[str, Section]]:
    """Yield the sections of a valid experiment that name files to read and need no other layer."""
    for name, kind in (("curate", Curate), ("evaluate", Evaluate), ("finetune", Finetune)):
        node = yaml_tree.find(root, (name,))
        section = decode(kind, node, Problems()) if isinstance(node, MapNode) else None
        if section is not None:
            yield name, section


def is_profile(root: MapNode) -> bool:
    """Return whether a file has more keys of a profile than of an experiment."""
    keys = set(root.entries)
    profile = keys & set(Cluster.model_fields)
    return len(profile) > len(keys & set(Experiment.model_fields))
