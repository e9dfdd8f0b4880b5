"""Derive a run's name from what it trains, not from how it is executed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from meditron_cli.config.experiment_schema import Experiment
from meditron_cli.config.field_types import OPERATIONAL
from meditron_cli.config.section import Section

DIGITS = 8


def run_name(experiment: Experiment, size: str, cluster_name: str) -> str:
    """Return ``med-tiny-3f2a91c0``: the experiment's name, the size, and the start of a digest.

    The digest (SHA-256) covers the names of size and cluster and every key of the experiment,
    except those that ``experiment_schema`` marks ``OPERATIONAL``: time limits, cores, parallel
    tasks, the micro-batch, saving and keeping checkpoints, and the sections ``parallel`` and
    ``evaluate``. So a longer time limit, another layout or one more benchmark continues a run;
    another learning rate starts a new one. Paths count, absolute; the content of files does not
    (``runs.moved`` finds the run of files that were moved).
    """
    decisive = {"size": size, "cluster": cluster_name, "experiment": decisive_values(experiment)}
    text = json.dumps(decisive, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f"{experiment.name}-{size}-{digest[:DIGITS]}"


def decisive_values(section: Section) -> dict[str, Any]:
    """Return the JSON values of the keys that decide the trained result."""
    whole = section.model_dump(mode="json")
    kept: dict[str, Any] = {}
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if OPERATIONAL not in field.metadata:
            kept[name] = decisive_values(value) if isinstance(value, Section) else whole[name]
    return kept


def differences(mine: Experiment, other: Mapping[str, Any]) -> list[str]:
    """Return the keys (``pretrain.train_steps``) that give two experiments two names.

    Args:
        other: an experiment as a run keeps it, JSON values of all keys.
    """
    return sorted(_differences(decisive_values(mine), other, ""))


def _differences(mine: Mapping[str, Any], other: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for key, value in mine.items():
        recorded = other.get(key)
        if isinstance(value, dict) and isinstance(recorded, dict):
            yield from _differences(value, recorded, f"{prefix}{key}.")
        elif value != recorded:
            yield f"{prefix}{key}"
