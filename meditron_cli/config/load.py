"""Merge recipe, profile, experiment and ``--set`` into typed objects.

Precedence, lowest first: the models' defaults, the size's recipe, the cluster's ``defaults``, the
experiment file, ``--set`` (of which the last counts). Below a profile lies what ``doctor`` found
out about its cluster. Trees are merged, not values, so that every value keeps the location where it
was written.
"""

from __future__ import annotations

import shlex
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from pathlib import Path

from jobs.contract.rundir import RunDir
from jobs.contract.stage_specs import (
    FINETUNE,
    JUDGE,
    PREPARE,
    READING_SOURCES,
    STAGES,
    TOKENIZER_STAGES,
)
from meditron_cli.config import files, site_facts, weights, yaml_tree
from meditron_cli.config.cluster_schema import Cluster
from meditron_cli.config.data_files import HubData
from meditron_cli.config.decode import check_part, decode, placeholder_problems
from meditron_cli.config.diagnostics import Location, Problem, Problems, Source
from meditron_cli.config.evaluation.schema import JUDGED_KIND
from meditron_cli.config.experiment_schema import Experiment
from meditron_cli.config.files import cluster_names, size_names
from meditron_cli.config.training.finetune import Finetune
from meditron_cli.config.training.pretrain import Corpus, Pretrain
from meditron_cli.config.yaml_tree import KeyPath, MapNode

__all__ = [
    "Loaded",
    "Missing",
    "cluster_names",
    "load",
    "load_cluster",
    "load_experiment",
    "size_names",
]

WEIGHTS_STAGES = ("convert",)
"""Stages that cannot begin without ``model.weights``; training begins behind them."""


@dataclass(frozen=True)
class Missing:
    """An input that the configuration names and that does not exist."""

    stages: tuple[str, ...]
    """Stages that need it."""
    sentence: str
    hint: str = ""


@dataclass(frozen=True)
class Loaded:
    """A complete, valid experiment on a cluster."""

    experiment: Experiment
    cluster: Cluster
    size: str
    config_file: Path | None
    placeholders: tuple[str, ...]
    """Sentences with places, about the profile; ``submit`` refuses them."""
    missing: tuple[Missing, ...]
    """Inputs that this machine does not have; ``submit`` refuses those its stages need."""
    known: site_facts.KnownFacts | None = None
    """The file with the facts by ``doctor`` about the cluster; None where it never ran."""
    locations: Mapping[str, str] = field(default_factory=dict)
    """Where each key of the experiment was written; defaults have none."""


@dataclass(frozen=True)
class Layers:
    """The layers of an experiment; None for a layer that was not requested or cannot be read."""

    recipe: MapNode | None
    profile: MapNode | None
    config: MapNode | None
    overrides: tuple[MapNode, ...]
    config_file: Path | None
    known: site_facts.KnownFacts | None = None
    """The facts that complete the profile."""

    def merged(self) -> yaml_tree.Node:
        """Return one tree of the experiment's keys."""
        defaults = yaml_tree.find(self.profile, ("defaults",)) if self.profile else None
        nothing: yaml_tree.Node = MapNode(Location(Source("default", "defaults", Path.cwd())), {})
        layers = (self.recipe, defaults, self.config, *self.overrides)
        return reduce(
            yaml_tree.merge, (node for node in layers if isinstance(node, MapNode)), nothing
        )


def load(
    cluster: str,
    size: str,
    config: Path | None,
    overrides: Sequence[str],
    with_facts: bool = True,
) -> Loaded:
    """Read all layers of an experiment on a cluster.

    Args:
        cluster: a profile's name, or a path that ends in ``.yaml``.
        size: a recipe's name.
        config: the experiment file; when None, ``experiment.yaml`` of this folder if it is there.
        overrides: ``KEY=VALUE`` of each ``--set``.
        with_facts: complete the profile with what ``doctor`` found out.

    Raises:
        ConfigError: every error of every layer, one a line.
    """
    problems = Problems()
    layers = read_layers(cluster, size, config, overrides, problems, with_facts)
    merged = layers.merged()
    profile = decode_profile(layers.profile, problems)
    if layers.recipe is None:
        check_part(Experiment, merged, problems)
        raise problems.error()
    experiment = decode(Experiment, merged, problems)
    if problems or experiment is None or profile is None or layers.profile is None:
        raise problems.error()
    fetch = fetch_command(cluster, size, config, overrides)
    return Loaded(
        experiment=experiment,
        cluster=profile,
        size=size,
        config_file=layers.config_file,
        placeholders=tuple(map(str, placeholder_problems(layers.profile))),
        missing=(
            *missing_inputs(experiment, merged, layers.config),
            *missing_weights(experiment, profile, merged, fetch),
            *missing_data(experiment, profile, merged, fetch),
            *missing_secrets(profile, layers.profile),
        ),
        known=layers.known,
        locations=yaml_tree.locations(merged),
    )


def load_experiment(
    cluster: str | None, size: str, config: Path | None, overrides: Sequence[str]
) -> tuple[Experiment, Cluster | None]:
    """Read an experiment without its inputs; None requests no cluster.

    Raises:
        ConfigError: every error of every layer, one a line.
    """
    problems = Problems()
    layers = read_layers(cluster, size, config, overrides, problems)
    profile = decode_profile(layers.profile, problems)
    experiment = decode(Experiment, layers.merged(), problems) if layers.recipe else None
    if problems or experiment is None:
        raise problems.error()
    return experiment, profile


def load_cluster(name_or_path: str) -> Cluster:
    """Return a cluster profile.

    Raises:
        ConfigError: every error of it, one a line.
    """
    problems = Problems()
    profile = decode_profile(files.read_profile(name_or_path, problems), problems)
    if problems or profile is None:
        raise problems.error()
    return profile


def decode_profile(root: MapNode | None, problems: Problems) -> Cluster | None:
    """Return the profile of a tree; its ``defaults`` are checked as a part of an experiment."""
    if root is None:
        return None
    defaults = yaml_tree.find(root, ("defaults",))
    if isinstance(defaults, MapNode):
        check_part(Experiment, defaults, problems)
    return decode(Cluster, root, problems)


def read_layers(
    cluster: str | None,
    size: str | None,
    config: Path | None,
    overrides: Sequence[str],
    problems: Problems,
    with_facts: bool = True,
) -> Layers:
    """Read the requested layers; None requests no cluster or no size."""
    if config is None and files.DEFAULT_CONFIG.exists():
        config = files.DEFAULT_CONFIG
    recipe = files.find_recipe(size, problems) if size else None
    override_trees = [files.read_override(word, problems) for word in overrides]
    profile = files.read_profile(cluster, problems) if cluster else None
    completed, known = site_facts.complete(profile) if profile and with_facts else (profile, None)
    return Layers(
        recipe=files.read_mapping(recipe, "recipe", problems) if recipe else None,
        profile=completed,
        config=files.read_mapping(config, "experiment", problems) if config else None,
        overrides=tuple(node for node in override_trees if node is not None),
        config_file=config,
        known=known,
    )


def inputs(experiment: Experiment) -> list[tuple[tuple[str, ...], KeyPath, Path]]:
    """Return the files that stages read and a path names, in the order of the stages: the stages,
    the key and the path.
    """
    files: list[tuple[tuple[str, ...], KeyPath, Path]] = [
        (stages, where, Path(named))
        for stages, where, named in data_files(experiment)
        if HubData.parse(named) is None
    ]
    if tokenizer := experiment.tokenize.tokenizer:
        files.append((TOKENIZER_STAGES, ("tokenize", "tokenizer"), tokenizer))
    finetune = experiment.finetune
    if finetune.models and finetune.instructions:
        files.append(((PREPARE,), ("finetune", "instructions"), finetune.instructions))
    if finetune.models and finetune.run:
        files.append(((FINETUNE,), ("finetune", "run"), RunDir(finetune.run).record))
    if (judge := experiment.evaluate.judge) and experiment.evaluate.judged:
        files.append(((JUDGE,), ("evaluate", "judge", "folder"), judge.folder))
        if judge.grades:
            files.append(((JUDGE,), ("evaluate", "judge", "grades"), judge.grades))
    for where, path in token_paths(experiment):
        dataset = [Path(f"{path}.bin"), Path(f"{path}.idx")]
        needed = [RunDir(path).record] if path.is_dir() else dataset
        files += [(("index", "pretrain"), where, file) for file in needed]
    return sorted(files, key=lambda item: STAGES.index(item[0][0]))


def token_paths(experiment: Experiment) -> Iterator[tuple[KeyPath, Path]]:
    """Yield the runs and indexed datasets that training names, with the key of each."""
    pretrain = experiment.pretrain
    sections: list[tuple[KeyPath, Pretrain | Corpus]] = [(("pretrain",), pretrain)]
    sections += [
        (("pretrain", "corpora", number), corpus) for number, corpus in enumerate(pretrain.corpora)
    ]
    for key, section in sections:
        for name in ("data", "validation_data"):
            for number, path in enumerate(getattr(section, name)):
                yield (*key, name, number), path


def data_files(experiment: Experiment) -> Iterator[tuple[tuple[str, ...], KeyPath, str]]:
    """Yield the documents and benchmarks: the stages that read them, the key, and the path or the
    name on the hub.
    """
    for number, source in enumerate(experiment.curate.sources):
        where: KeyPath = ("curate", "sources", number)
        if isinstance(source, str):
            yield READING_SOURCES, where, source
        else:
            yield READING_SOURCES, (*where, "path"), source.path
    for where, path in training_files(experiment.finetune):
        yield (PREPARE,), where, path
    compares = experiment.finetune.models and experiment.finetune.decontaminate.enabled
    for number, benchmark in enumerate(experiment.evaluate.benchmarks):
        is_compared = benchmark in experiment.compared_benchmarks
        readers = (*(READING_SOURCES if is_compared else ()), "evaluate", "generate")
        readers += (PREPARE,) if compares else ()
        readers += (JUDGE,) if benchmark.kind == JUDGED_KIND and experiment.evaluate.judge else ()
        yield readers, ("evaluate", "benchmarks", number, "path"), benchmark.path
        if benchmark.train:
            key: KeyPath = ("evaluate", "benchmarks", number, "train")
            yield ("evaluate", "generate"), key, benchmark.train


def training_files(finetune: Finetune) -> Iterator[tuple[KeyPath, str]]:
    """Yield the files of questions that finetuning trains on or compares with, with their keys."""
    for number, model in enumerate(finetune.models):
        for place, file in enumerate(model.data):
            yield ("finetune", "models", number, "data", place, "path"), file.path
    if finetune.models and finetune.decontaminate.enabled:
        for number, file in enumerate(finetune.decontaminate.against):
            yield ("finetune", "decontaminate", "against", number, "path"), file.path


def absence(path: Path) -> str:
    """Return the sentence about an input that does not exist."""
    if path == RunDir(path.parent).record and path.parent.is_dir():
        return f"{path.parent}: not the directory of a run, it has no {path.name}"
    for suffix in (".bin", ".idx"):
        if path.stem.endswith(suffix) and path.suffix in (".bin", ".idx"):
            return f"{path}: no such file or folder; name the dataset without {suffix}"
    return f"{path}: no such file or folder"


def missing_inputs(
    experiment: Experiment, root: yaml_tree.Node, config: MapNode | None
) -> Iterator[Missing]:
    """Yield inputs that do not exist, or that the stages need and no layer names."""
    if not experiment.curate.sources and not experiment.only_finetunes:
        where: KeyPath = ("curate", "sources")
        yield unnamed(
            config, READING_SOURCES, where, "no documents are named", "list files or folders"
        )
    if not experiment.tokenize.tokenizer:
        where = ("tokenize", "tokenizer")
        advice = "name one; `meditron tokenizer build --help` shows how to make one"
        yield unnamed(config, TOKENIZER_STAGES, where, "no tokenizer.json is named", advice)
    for stages, where, path in inputs(experiment):
        if not path.exists():
            yield Missing(stages, sentence(root, where, absence(path)))


def missing_files(experiment: Experiment, root: yaml_tree.Node) -> Iterator[str]:
    """Yield a sentence for each file of documents or questions that this machine does not have, or
    that is on the hub.
    """
    for _, where, named in data_files(experiment):
        if HubData.parse(named):
            yield sentence(root, where, f"{named} is on the hub; name --cluster and --size")
        elif not Path(named).exists():
            yield sentence(root, where, absence(Path(named)))


def missing_weights(
    experiment: Experiment, cluster: Cluster, root: yaml_tree.Node, fetch: str
) -> Iterator[Missing]:
    """Yield the base model if no layer names one, or if this machine does not have it.

    Args:
        fetch: the command that downloads it to ``models_dir``.
    """
    where, named = ("model", "weights"), experiment.model.weights
    if named is None:
        message = "no weights to start from are named; give --set model.weights=ORG/NAME, as on the"
        message += " Hugging Face hub, --set model.weights=PATH or --set model.weights=random"
        yield Missing(WEIGHTS_STAGES, sentence(root, where, message))
        return
    place = weights.find(named, cluster.models_dir)
    if not place.problem:
        return
    advice = f"give {weights.ALTERNATIVES}"
    name = weights.hub_name(named)
    if name:
        command = fetch if cluster.models_dir else weights.download_command(name, None)
        advice = f"download it on the login node with `{command}`, or {advice}"
    yield Missing(WEIGHTS_STAGES, sentence(root, where, f"{place.problem}; {advice}"))


def missing_data(
    experiment: Experiment, cluster: Cluster, root: yaml_tree.Node, fetch: str
) -> Iterator[Missing]:
    """Yield the files of data sets on the hub that this machine does not have.

    Args:
        fetch: the command that downloads them to ``data_dir``.
    """
    for stages, where, named in data_files(experiment):
        problem = data_problem(named, cluster, fetch)
        if problem:
            yield Missing(stages, sentence(root, where, problem))


def data_problem(named: str, cluster: Cluster, fetch: str) -> str:
    """Return what is missing of a file that is named by its name on the hub; empty for nothing."""
    data = HubData.parse(named)
    if data is None:
        return ""
    if cluster.data_dir is None:
        return f"{data} is on the hub, and the profile has no data_dir for it; name a local file"
    place = data.place(cluster.data_dir)
    if place.exists():
        return ""
    how = f"download it on the login node with `{fetch}`" if fetch else "download it there"
    return f"{data} is not in data_dir: there is no {place}; {how}"


def fetch_command(cluster: str, size: str, config: Path | None, overrides: Sequence[str]) -> str:
    """Return the command that downloads what an experiment names, quoted for a shell."""
    words = ["meditron", "fetch", "--cluster", cluster, "--size", size]
    words += ["--config", str(config)] if config else []
    return shlex.join([*words, *(word for item in overrides for word in ("--set", item))])


def missing_secrets(cluster: Cluster, root: yaml_tree.Node) -> Iterator[Missing]:
    """Yield the secrets file if it does not exist or others may read it."""
    where = ("environment", "secrets_file")
    path = cluster.environment.secrets_file
    if path is None:
        return
    if not path.is_file():
        yield Missing(STAGES, sentence(root, where, f"{path}: no such file"))
    elif stat.S_IMODE(path.stat().st_mode) & 0o077:
        yield Missing(STAGES, sentence(root, where, f"others may read {path}; chmod it 600"))


def unnamed(
    config: MapNode | None, stages: tuple[str, ...], where: KeyPath, message: str, advice: str
) -> Missing:
    """Return an input that no layer names: its key belongs into the experiment file.

    Args:
        config: the experiment file; None where there is none.
        stages: that need the input.
        where: the key.
        message: the problem.
        advice: what to write into an experiment file that exists.
    """
    key = yaml_tree.key_text(where)
    if config:
        return Missing(stages, str(Problem(config.location, key, f"{message}; {advice}")))
    location = Location(files.source_of("experiment", str(files.DEFAULT_CONFIG), Path()))
    message += ", as this folder has no such file; name an experiment with --config"
    return Missing(stages, str(Problem(location, key, message)), files.HINT_INIT)


def sentence(root: yaml_tree.Node, where: KeyPath, message: str) -> str:
    """Return a problem as one line."""
    return str(Problem(yaml_tree.location_at(root, where), yaml_tree.key_text(where), message))
