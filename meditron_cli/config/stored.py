"""Read the configuration that a run keeps in its own record."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from meditron_cli.config import weights
from meditron_cli.config.cluster_schema import Cluster
from meditron_cli.config.experiment_schema import Experiment
from meditron_cli.config.load import (
    WEIGHTS_STAGES,
    Loaded,
    Missing,
    data_files,
    data_problem,
    inputs,
)
from meditron_cli.config.yaml_tree import key_text
from meditron_cli.errors import ConfigError


def restore(request: Mapping[str, Any]) -> tuple[Experiment, Cluster]:
    """Return the experiment and the profile that a run was submitted with.

    Raises:
        ConfigError: they are not valid for this version of the program.
    """
    try:
        return (
            Experiment.model_validate_json(json.dumps(request["experiment"])),
            Cluster.model_validate_json(json.dumps(request["cluster"])),
        )
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise ConfigError(
            f"the run's own configuration is refused: {key}: {first['msg']}",
            hint="this is another version of meditron; submit the experiment file with it",
        ) from error


def loaded(request: Mapping[str, Any], run: str) -> Loaded:
    """Return a run's own configuration in the form in which files are loaded; raises like
    ``restore``.
    """
    experiment, cluster = restore(request)
    missing = tuple(
        Missing(stages, f"run {run}: {key_text(where)}: {path}: no such file or folder")
        for stages, where, path in inputs(experiment)
        if not path.exists()
    )
    place = weights.find(experiment.model.weights, cluster.models_dir)
    if place.problem:
        named = str(experiment.model.weights)
        name = weights.hub_name(named)
        command = weights.download_command(name, cluster.models_dir) if name else ""
        advice = f"; download it on the login node with `{command}`" if command else ""
        text = f"run {run}: model.weights: {place.problem}{advice}"
        missing = (*missing, Missing(WEIGHTS_STAGES, text))
    for stages, where, text in data_files(experiment):
        if problem := data_problem(text, cluster, ""):
            missing = (*missing, Missing(stages, f"run {run}: {key_text(where)}: {problem}"))
    config_file = Path(request["config_file"]) if request["config_file"] else None
    return Loaded(experiment, cluster, request["size"], config_file, (), missing)
