"""Check one file alone: an experiment, a recipe or a profile, distinguished by its keys."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from meditron_cli.config.cluster_schema import Cluster
from meditron_cli.config.decode import check_part, placeholder_problems
from meditron_cli.config.diagnostics import Problems
from meditron_cli.config.experiment_schema import Experiment
from meditron_cli.config.files import read_mapping
from meditron_cli.config.load import decode_profile
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


def check_file(path: Path) -> Checked:
    """Check a file; other layers may complete an experiment, a profile must be whole."""
    problems = Problems()
    root = read_mapping(path, "experiment", problems)
    if root is None:
        errors, hints = tuple(problems.lines()), tuple(problems.hints())
        return Checked(str(path), "unreadable", errors, (), hints)
    if is_profile(root):
        decode_profile(root, problems)
        placeholders = tuple(map(str, placeholder_problems(root)))
        return Checked(str(path), "cluster", tuple(problems.lines()), placeholders)
    check_part(Experiment, root, problems)
    return Checked(str(path), "experiment", tuple(problems.lines()), ())


def is_profile(root: MapNode) -> bool:
    """Return whether a file has more keys of a profile than of an experiment."""
    keys = set(root.entries)
    profile = keys & set(Cluster.model_fields)
    return len(profile) > len(keys & set(Experiment.model_fields))
