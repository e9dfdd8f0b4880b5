"""Generate the JSON Schemas for editors and the profile's documentation from the models."""

from __future__ import annotations

import json
import re
from typing import Any

from meditron_cli.config.cluster_schema import Cluster
from meditron_cli.config.experiment_schema import Experiment
from meditron_cli.config.explain import default_of, one_line
from meditron_cli.config.section import Section, item_type, section_in

DIALECT = "https://json-schema.org/draft/2020-12/schema"

INTRODUCTION = """\
# Cluster profiles

A profile describes a site, one YAML file per cluster. `meditron clusters` lists them.
`--cluster NAME` uses the first of `./clusters/NAME.yaml`,
`~/.config/meditron/clusters/NAME.yaml` and the ones shipped here; it also accepts a path that
ends in `.yaml`.

To write a profile, copy the most similar one in your experiment's folder (not in the clone),
and edit it:

```console
$ meditron clusters generic-h100 --copy
$ meditron check clusters/generic-h100.yaml
```

The first line of a profile names its JSON Schema, with which an editor that uses the YAML
language server completes and explains keys; `--copy` puts the schema beside the profile. A value
in angle brackets, such as `<account>`, is a placeholder: `plan` shows it, `submit` refuses it. The
figures in the shipped profiles come from public pages that each file names; guesses are marked.
All are unproven on their sites.

Times are `24:00:00`, `2-00:00:00` or a number of minutes. YAML is read as version 1.2, strictly:
unknown keys, wrong types and duplicate keys are errors.

This page is generated from the models in `meditron_cli/config/cluster_schema.py` and
`experiment_schema.py`; a test compares them.
"""


def experiment_schema() -> dict[str, Any]:
    """Return the JSON Schema of experiment files and recipes, in which no key is required."""
    schema = Experiment.model_json_schema()
    whole = {section.__name__ for section in list_items(Experiment)}
    for definition in (schema, *schema["$defs"].values()):
        if definition["title"] not in whole:
            definition.pop("required", None)
    return {"$schema": DIALECT, **schema, "title": "meditron experiment"}


def list_items(model: type[Section]) -> list[type[Section]]:
    """Return the sections that are items of lists, which no other layer completes."""
    items = []
    for _, section in sections(model, ""):
        for field in section.model_fields.values():
            item = section_in(item_type(field.annotation))
            items += [item] if item else []
    return items


def profile_schema() -> dict[str, Any]:
    """Return the JSON Schema of cluster profiles; ``defaults`` is a part of an experiment."""
    schema = Cluster.model_json_schema()
    experiment = experiment_schema()
    definitions = {**schema["$defs"], **experiment.pop("$defs")}
    experiment.pop("$schema")
    defaults = {**schema["properties"]["defaults"], "$ref": "#/$defs/Experiment"}
    for key in ("additionalProperties", "type", "title"):
        defaults.pop(key, None)
    schema["properties"]["defaults"] = defaults
    schema["$defs"] = {**definitions, "Experiment": experiment}
    return {"$schema": DIALECT, **schema, "title": "meditron cluster profile"}


SCHEMAS = {"experiment": experiment_schema, "cluster": profile_schema}
"""The schemas of ``meditron schema``, by kind."""


def schema_text(kind: str) -> str:
    """Return a schema as the text of its file."""
    return json.dumps(SCHEMAS[kind](), indent=1) + "\n"


def profile_reference() -> str:
    """Return the text of ``clusters/README.md``."""
    parts = [INTRODUCTION]
    for title, section in sections(Cluster, ""):
        parts.append(section_reference(title, section))
    return "\n".join(parts)


def sections(model: type[Section], prefix: str) -> list[tuple[str, type[Section]]]:
    """Return the sections of a model, itself first, each once, with its dotted key."""
    keyed = [(prefix, model)]
    for name, field in model.model_fields.items():
        inside = section_in(field.annotation)
        if inside:
            below = sections(inside, f"{prefix}.{name}".lstrip("."))
            known = {section for _, section in keyed}
            keyed += [(key, section) for key, section in below if section not in known]
    return keyed


def section_reference(key: str, section: type[Section]) -> str:
    """Return one section as a heading, a sentence and a table."""
    heading = f"## `{key}`" if key else "## The profile"
    lines = [heading, "", one_line(section.__doc__ or ""), ""]
    lines += ["| key | default | meaning |", "|---|---|---|"]
    for name, field in section.model_fields.items():
        value, origin = default_of(field)
        default = "required" if origin == "unset" else f"`{json.dumps(value)}`"
        if section_in(field.annotation) and item_type(field.annotation) is None:
            default = "required" if origin == "unset" else ""
        meaning = one_line(field.description or "").replace("|", "\\|")
        lines.append(f"| `{name}` | {default} | {meaning} |")
    return re.sub(r"[ \t]+$", "", "\n".join(lines), flags=re.MULTILINE) + "\n"
