"""The facts of ``doctor`` as the layer below a profile: they complete it, and every value has the
cache file as its location.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from meditron_cli.config import facts_file, files, yaml_tree
from meditron_cli.config.diagnostics import Location
from meditron_cli.config.facts_file import Facts
from meditron_cli.config.yaml_tree import Entry, MapNode, Node, ScalarNode

LAYER = "facts"
PARTITIONS = ("gpu_partition", "cpu_partition")


@dataclass(frozen=True)
class KnownFacts:
    """The cache file that completes a profile."""

    file: str
    """Its label in messages (``files.label_of``)."""
    time: float | None = None
    """Time of the query, in seconds since 1970; None where the file is broken."""
    warning: str = ""
    """Why a broken one is left out."""
    cluster: str = ""
    fatal: tuple[str, ...] = ()
    """Sentences of the doctor's FATAL findings."""

    def age(self, now: float) -> str:
        """Return the age of the facts as a sentence; empty without facts."""
        if self.time is None:
            return ""
        return f"facts about the cluster: {self.file}, {facts_file.age(now - self.time)} old"

    def warnings(self, now: float) -> list[str]:
        """Return warnings for a plan: FATAL findings, and a broken or outdated file."""
        if self.warning:
            return [self.warning]
        again = f"`meditron doctor --cluster {shlex.quote(self.cluster)}` checks again"
        warnings = [f"doctor reported FATAL: {sentence}; {again}" for sentence in self.fatal]
        if self.time is not None and now - self.time > facts_file.OLD_DAYS * 86400:
            warnings.append(f"{self.age(now)}; {again}")
        return warnings


def complete(profile: MapNode) -> tuple[MapNode, KnownFacts | None]:
    """Return a profile completed with the facts of its cluster, and their origin; a profile without
    a name or without facts is returned unchanged.
    """
    name = scalar(profile, "name")
    if not name:
        return profile, None
    path = facts_file.path_of(name)
    label = files.label_of(path)
    try:
        facts = facts_file.read(path)
    except facts_file.Broken as error:
        again = f"`meditron doctor --cluster {shlex.quote(name)}` writes it again"
        return profile, KnownFacts(label, warning=f"{error}; left out; {again}")
    if facts is None:
        return profile, None
    location = Location(files.source_of(LAYER, label, path.parent))
    merged = yaml_tree.merge(layer(facts, profile, location), profile)
    return (merged if isinstance(merged, MapNode) else profile), KnownFacts(
        label, facts.time, cluster=name, fatal=facts.fatal
    )


def layer(facts: Facts, profile: MapNode, location: Location) -> MapNode:
    """Return the tree of the facts for the partitions that the profile names, without those for
    another quality of service; measured speeds do not depend on that.
    """
    sections = {"slurm": mapping_of(asdict(facts.slurm), location)}
    for key in PARTITIONS:
        node = yaml_tree.find(profile, (key,))
        if not isinstance(node, MapNode):
            continue
        known = facts.partitions.get(scalar(node, "name"))
        if known and known.qos == (scalar(node, "qos") or scalar(profile, "qos")):
            values = {
                "grace_seconds": known.grace_seconds,
                "max_time_minutes": known.max_time_minutes or None,
            }
            sections[key] = mapping_of(values, location)
        if facts.speeds and facts.speeds.partition == scalar(node, "name"):
            reached = mapping_of(facts.speeds.reached, location)
            speeds = {"node": mapping({"reached": reached}, location)}
            entries = sections[key].entries if key in sections else {}
            below = {name: entry.node for name, entry in entries.items()}
            sections[key] = mapping({**below, **speeds}, location)
    return mapping(sections, location)


def mapping_of(values: Mapping[str, float | bool | None], location: Location) -> MapNode:
    """Return a section of the known values."""
    return mapping(
        {
            key: ScalarNode(location, value, str(value).lower())
            for key, value in values.items()
            if value is not None
        },
        location,
    )


def mapping(nodes: Mapping[str, Node], location: Location) -> MapNode:
    """Return a mapping whose values share one location."""
    return MapNode(location, {key: Entry(location, node) for key, node in nodes.items()})


def scalar(node: MapNode, key: str) -> str:
    """Return a text of a mapping; empty if there is none."""
    child = yaml_tree.find(node, (key,))
    return child.value if isinstance(child, ScalarNode) and isinstance(child.value, str) else ""
