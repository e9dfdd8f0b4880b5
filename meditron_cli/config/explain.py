"""Explain a configuration key: its meaning, its value and its origin."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from pydantic.fields import FieldInfo

from meditron_cli.config import yaml_tree
from meditron_cli.config.cluster_schema import Cluster
from meditron_cli.config.decode import check_part, with_paths
from meditron_cli.config.diagnostics import Problems
from meditron_cli.config.error_messages import did_you_mean, dotted_keys, section_at
from meditron_cli.config.experiment_schema import Experiment
from meditron_cli.config.load import read_layers
from meditron_cli.config.section import Section, item_type, section_in
from meditron_cli.errors import ConfigError

PROFILE = "cluster."
"""Prefix of the profile's keys: ``cluster.gpu_partition.name``."""


@dataclass(frozen=True)
class Explanation:
    """One key. ``origin`` is a layer's name (``default``, ``recipe``, ``profile``, ``experiment``,
    ``--set``) or ``unset``; ``place`` is the location in it, empty for defaults."""

    key: str
    value: Any
    """A JSON value; durations are minutes, paths absolute."""
    doc: str
    origin: str
    place: str


@dataclass(frozen=True)
class ExplainQuery:
    """The configuration in which a key is explained; None leaves a layer out."""

    cluster: str | None
    size: str | None
    config: Path | None
    overrides: Sequence[str]


def explain(key: str, question: ExplainQuery) -> list[Explanation]:
    """Explain a key; a section is explained key by key.

    Raises:
        ConfigError: no such key, or the files have errors.
    """
    problems = Problems()
    layers = read_layers(
        question.cluster, question.size, question.config, question.overrides, problems
    )
    model: type[Section] = Cluster if key.startswith(PROFILE) else Experiment
    root = layers.profile if model is Cluster else layers.merged()
    if root is not None:
        check_part(model, root, problems)
    if problems:
        raise problems.error()
    if root is None:
        raise ConfigError(
            f"{key} is a key of cluster profiles",
            hint="`meditron clusters` lists them; name one with --cluster",
        )
    prefix = PROFILE if model is Cluster else ""
    name = key.removeprefix(PROFILE)
    keys = keys_below(model, name)
    if not keys:
        near = did_you_mean(key, [f"{prefix}{known}" for known in dotted_keys(model)])
        raise ConfigError(f"no configuration key is called {key!r}{near}", other_key(model, name))
    return [explain_one(prefix, part, model, root) for part in keys]


def other_key(model: type[Section], key: str) -> str:
    """Return the hint about a key that the other model has, an experiment's or a profile's; empty
    where it has none either.
    """
    if model is Cluster and key in dotted_keys(Experiment):
        return f"`meditron explain {key}` explains the key of experiments"
    if model is Experiment and key in dotted_keys(Cluster):
        return f"`meditron explain {PROFILE}{key} --cluster local` explains the key of profiles"
    return ""


def keys_below(model: type[Section], key: str) -> list[str]:
    """Return the key itself, or the keys of a section of that name; none where there is no such
    key.
    """
    known = dotted_keys(model)
    if key not in known:
        return []
    inside = [name for name in known if name.startswith(f"{key}.")]
    leaves = [name for name in inside if not any(other.startswith(f"{name}.") for other in inside)]
    return leaves or [key]


def explain_one(prefix: str, key: str, model: type[Section], root: yaml_tree.Node) -> Explanation:
    """Explain a key that is not a section."""
    where = tuple(key.split("."))
    field = field_at(model, where)
    doc = with_items(field.description or "")
    node = yaml_tree.find(root, where)
    if node is None:
        value, origin = default_of(field)
        return Explanation(prefix + key, value, doc, origin, "")
    written = with_paths(node, field.annotation, where, Problems())
    source = node.location.source
    return Explanation(
        prefix + key, json_value(field, written), doc, source.layer, str(node.location)
    )


def field_at(model: type[Section], where: tuple[str, ...]) -> FieldInfo:
    """Return the field of an existing key."""
    section = section_at(model, where[:-1])
    if section is None:
        raise ConfigError(f"no configuration key is called {'.'.join(where)!r}")
    return section.model_fields[where[-1]]


def default_of(field: FieldInfo) -> tuple[Any, str]:
    """Return a field's default as a JSON value, and ``default``; ``unset`` if it has none."""
    if field.is_required():
        return None, "unset"
    adapter: TypeAdapter[Any] = TypeAdapter(field.rebuild_annotation())
    return adapter.dump_python(field.get_default(call_default_factory=True), mode="json"), "default"


def json_value(field: FieldInfo, written: Any) -> Any:
    """Return a checked value as JSON, with durations in minutes."""
    if section_in(field.annotation) or item_type(field.annotation):
        return written
    adapter: TypeAdapter[Any] = TypeAdapter(field.rebuild_annotation())
    return adapter.dump_python(adapter.validate_python(written), mode="json")


def with_items(text: str) -> str:
    """Return a docstring with a line per item of its list (``- …``), and else as one line."""
    return "\n".join(one_line(part) for part in re.split(r"\s*\n\s*(?=- )", text))


def one_line(text: str) -> str:
    """Return a docstring without its line breaks and code marks."""
    return re.sub(r"\s+", " ", text).replace("``", "`").strip()
