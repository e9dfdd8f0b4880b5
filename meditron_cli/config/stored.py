"""Read the configuration that a run keeps in its own record."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from meditron_cli.config import files, weights, yaml_tree
from meditron_cli.config.cluster_schema import Cluster
from meditron_cli.config.decode import decode
from meditron_cli.config.diagnostics import Location, Problems, Source
from meditron_cli.config.experiment_schema import Experiment
from meditron_cli.config.identity import differences
from meditron_cli.config.load import (
    WEIGHTS_STAGES,
    Loaded,
    Missing,
    absence,
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


def changed(recorded: Experiment, overrides: Sequence[str], run: str) -> Experiment:
    """Return a run's experiment with the values of ``--set`` above its own.

    Raises:
        ConfigError: a value is refused, or decides the trained result and so makes another run.
    """
    problems = Problems()
    values = recorded.model_dump(mode="json")
    below = yaml_tree.from_plain(values, Location(Source("run", f"run {run}", Path.cwd())))
    above = [node for word in overrides if (node := files.read_override(word, problems))]
    experiment = decode(Experiment, reduce(yaml_tree.merge, above, below), problems)
    if problems or experiment is None:
        raise problems.error()
    if keys := differences(experiment, values):
        raise ConfigError(
            f"run {run} cannot continue with another {', '.join(keys)}, which decides what it "
            "trains",
            hint="give --cluster and --size instead of --run: that makes another run",
        )
    return experiment


def loaded(request: Mapping[str, Any], run: str, overrides: Sequence[str] = ()) -> Loaded:
    """Return a run's own configuration in the form in which files are loaded; raises like
    ``restore`` and ``changed``.
    """
    experiment, cluster = restore(request)
    if overrides:
        experiment = changed(experiment, overrides, run)
    missing = tuple(
        Missing(stages, f"run {run}: {key_text(where)}: {absence(path)}")
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
