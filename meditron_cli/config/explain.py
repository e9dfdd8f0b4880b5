"""Explain a configuration key: its meaning, its value and its origin."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from pydantic.fields import FieldInfo

from meditron_cli.config import refused, yaml_tree
from meditron_cli.config.cluster_schema import Cluster
from meditron_cli.config.decode import check_part, with_paths
from meditron_cli.config.diagnostics import Problems
from meditron_cli.config.error_messages import dotted_keys, nearest, section_at
from meditron_cli.config.experiment_schema import Experiment
from meditron_cli.config.load import read_layers
from meditron_cli.config.section import Section, item_type, section_in
from meditron_cli.errors import ConfigError

PROFILE = "cluster."
"""Prefix of the profile's keys: ``cluster.gpu_partition.name``."""
HINT_CLUSTER = "`meditron schema cluster` prints all keys of profiles"
HINT_EXPERIMENT = "`meditron schema experiment` prints all keys of experiments"


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

    def command(self, key: str) -> str:
        """Return the command that explains another key in the same configuration, quoted for a
        shell; keys of profiles are explained with one.
        """
        cluster = self.cluster or ("local" if key.startswith(PROFILE) else None)
        values = (("--cluster", cluster), ("--size", self.size), ("--config", self.config))
        options = [word for name, value in values if value for word in (name, str(value))]
        sets = [word for override in self.overrides for word in ("--set", override)]
        return shlex.join(["meditron", "explain", key, *options, *sets])


def explain(key: str, query: ExplainQuery) -> list[Explanation]:
    """Explain a key; a section is explained key by key, and a list of sections by its own key and
    those of its items, which have defaults alone.

    Raises:
        ConfigError: no such key, or the files have errors.
    """
    problems = Problems()
    layers = read_layers(query.cluster, query.size, query.config, query.overrides, problems)
    model: type[Section] = Cluster if key.startswith(PROFILE) else Experiment
    root = layers.profile if model is Cluster else layers.merged()
    if root is not None:
        check_part(model, root, problems)
    if problems:
        raise problems.error()
    prefix = PROFILE if model is Cluster else ""
    name = key.removeprefix(PROFILE)
    keys = keys_below(model, name)
    if not keys:
        raise unknown_key(model, name, query)
    if root is None:
        raise ConfigError(
            f"{key} is a key of cluster profiles",
            hint=f"`{query.command(key)}` explains it; `meditron clusters` lists the profiles",
        )
    return [explain_one(prefix, part, model, root) for part in keys]


def unknown_key(model: type[Section], name: str, query: ExplainQuery) -> ConfigError:
    """Return the error about a key that a model does not have: its hint names the key of the other
    model, an experiment's or a profile's, or the nearest key, or else the list of all keys.
    """
    is_profile = model is Cluster
    prefix = PROFILE if is_profile else ""
    if reason := refused.reason_of_key(name.split(".")):
        return ConfigError(f"{name}: {reason}", HINT_EXPERIMENT)
    near = [prefix + key for key in nearest(name, dotted_keys(model, items=True))]
    message = f"no configuration key is called {prefix + name!r}"
    if name in dotted_keys(Experiment if is_profile else Cluster):
        other = name if is_profile else PROFILE + name
        noun = "experiments" if is_profile else "profiles"
        return ConfigError(message, f"`{query.command(other)}` explains the key of {noun}")
    if near:
        message += f"; did you mean {near[0]!r}?"
        return ConfigError(message, f"`{query.command(near[0])}` explains that key")
    return ConfigError(message, HINT_CLUSTER if is_profile else HINT_EXPERIMENT)


def keys_below(model: type[Section], key: str) -> list[str]:
    """Return the key itself with those of its list's items, or the keys of a section of that name;
    none where there is no such key.
    """
    known = dotted_keys(model)
    if key in known:
        sections = leaves_below(known, key)
        return sections or [key, *leaves_below(dotted_keys(model, items=True), key)]
    of_items = dotted_keys(model, items=True)
    return leaves_below(of_items, key) or [key] if key in of_items else []


def leaves_below(known: Sequence[str], key: str) -> list[str]:
    """Return the keys below a key that are not sections."""
    inside = [name for name in known if name.startswith(f"{key}.")]
    return [name for name in inside if not any(other.startswith(f"{name}.") for other in inside)]


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
