"""Choose what to download: the files of the hub that an experiment names and this machine lacks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from jobs.contract.base_folder import RECORD
from meditron_cli.config import load, weights
from meditron_cli.config.cluster_schema import Cluster
from meditron_cli.config.data_files import HubData
from meditron_cli.config.experiment_schema import Experiment
from meditron_cli.errors import ConfigError
from meditron_cli.hub.download import Wanted
from meditron_cli.hub.repository import HubFile

MODEL_SUFFIXES = {".safetensors", ".json", ".jinja", ".model", ".txt", ".md", ""}
"""Of weights, configuration, tokenizer and licence. Pickles (.bin, .pth, .pt, .ckpt) could run code
and have the same weights; .h5, .msgpack, .onnx and .gguf are the same for other programs.
"""
OTHER_WEIGHTS = "consolidated"
"""Beginning of the names of the same weights in the layout of their author (Mistral)."""


def model_files(name: weights.HubName, files: Sequence[HubFile]) -> list[HubFile]:
    """Return the files of a model that are used here: those at the top of its repository.

    Raises:
        ConfigError: it has no safetensors or no configuration.
    """
    chosen = [file for file in files if is_model_file(PurePosixPath(file.path))]
    names = {file.path for file in chosen}
    if weights.CONFIG not in names:
        raise ConfigError(
            f"{name} has no {weights.CONFIG}: it is no model of the library transformers",
            hint="name another repository in model.weights; those of Llama end in -hf",
        )
    if names.isdisjoint((weights.SINGLE, weights.INDEX)):
        raise ConfigError(
            f"{name} has no safetensors; other formats are pickles, which could run code",
            hint="name a repository or an @REVISION with safetensors in model.weights, or convert "
            "it elsewhere with save_pretrained of transformers and give the folder's path",
        )
    return chosen


def is_model_file(path: PurePosixPath) -> bool:
    """Return whether a file of a model's repository is downloaded."""
    is_hidden = path.name.startswith(".") or path.name == RECORD
    is_copy = path.suffix == ".safetensors" and path.name.startswith(OTHER_WEIGHTS)
    return len(path.parts) == 1 and path.suffix in MODEL_SUFFIXES and not is_hidden and not is_copy


@dataclass(frozen=True)
class Named:
    """Something on the hub that an experiment names."""

    title: str
    """The name in the experiment."""
    kind: str
    """``model`` or ``dataset``."""
    place: Path | Wanted
    """Where this machine has it; else what to download."""


def named(experiment: Experiment, cluster: Cluster, environ: Mapping[str, str]) -> Iterator[Named]:
    """Yield what an experiment names on the hub: the base model with its tokenizer, documents and
    benchmarks.

    Raises:
        ConfigError: the profile has no folder for what is missing.
    """
    base = experiment.model.weights
    name = weights.hub_name(base) if base else None
    if name:
        yield model(name, cluster, environ)
    for text in dict.fromkeys(text for _, _, text in load.data_files(experiment)):
        data = HubData.parse(text)
        if data:
            yield data_set(data, cluster)


def model(name: weights.HubName, cluster: Cluster, environ: Mapping[str, str]) -> Named:
    """Return a base model; raises like ``named``."""
    folder = weights.find(str(name), cluster.models_dir, environ).folder
    if folder:
        return Named(str(name), "model", folder)
    if cluster.models_dir is None:
        command = weights.download_command(name, None)
        raise ConfigError(
            f"cluster {cluster.name}: the profile has no models_dir to download {name} to",
            hint="add `models_dir: FOLDER` to it, on storage that all nodes see; "
            f"`{command}` downloads to the hub's cache instead",
        )
    chosen = partial(model_files, name)
    wanted = Wanted("model", name, "", name.folder(cluster.models_dir), chosen)
    return Named(str(name), "model", wanted)


def data_set(data: HubData, cluster: Cluster) -> Named:
    """Return a file or folder of a data set; raises like ``named``."""
    if cluster.data_dir is None:
        raise ConfigError(
            f"cluster {cluster.name}: the profile has no data_dir to download {data} to",
            hint="add `data_dir: FOLDER` to it, on storage that all nodes see",
        )
    place = data.place(cluster.data_dir)
    if place.exists():
        return Named(str(data), "dataset", place)
    chosen = partial(data_files, data)
    wanted = Wanted("dataset", data.name, data.path, place, chosen)
    return Named(str(data), "dataset", wanted)


def data_files(data: HubData, files: Sequence[HubFile]) -> list[HubFile]:
    """Return the file, or the files of the folder, that an experiment names.

    Raises:
        ConfigError: the data set has neither.
    """
    chosen = [
        file for file in files if file.path == data.path or file.path.startswith(f"{data.path}/")
    ]
    if not chosen:
        raise ConfigError(
            f"{data.name} has no {data.path}",
            hint=f"it has {', '.join(file.path for file in files[:5])}"
            + (f" and {len(files) - 5} more" if len(files) > 5 else ""),
        )
    return chosen
