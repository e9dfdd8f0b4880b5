"""Find the folder of a base model on this machine. Looks at names, reads no weights."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from jobs.contract.base_folder import SNAPSHOTS, copy_command, pickles, read_fetched
from jobs.contract.files import parse_json

RANDOM = "random"
"""The value of ``model.weights`` for a training that starts from random weights."""
CONFIG = "config.json"
SINGLE = "model.safetensors"
"""Holds all weights where there is no index."""
INDEX = "model.safetensors.index.json"
"""Names the file of each tensor where weights are in several files (transformers)."""
ALTERNATIVES = "--set model.weights=PATH or --set model.weights=random"


@dataclass(frozen=True)
class HubName:
    """The name of a repository on the Hugging Face hub, with a revision of it."""

    repository: str
    """``meta-llama/Llama-2-7b-hf``."""
    revision: str = ""
    """A branch, a tag or a commit; empty for the default branch."""

    @staticmethod
    def parse(name: str) -> HubName:
        """Return the parts of ``org/name`` or ``org/name@revision``."""
        repository, _, revision = name.partition("@")
        return HubName(repository, revision)

    def __str__(self) -> str:
        return f"{self.repository}@{self.revision}" if self.revision else self.repository

    def folder(self, models_dir: Path) -> Path:
        """Return where ``meditron fetch`` puts the repository."""
        return models_dir / str(self)


@dataclass(frozen=True)
class Place:
    """The folder of a base model, or the reason for which there is none."""

    folder: Path | None
    """Absolute, without symbolic links."""
    problem: str = ""
    """Where was looked and what is wrong there; begins with the name or the path."""


def hub_name(weights: str) -> HubName | None:
    """Return the parts of a name on the hub; None for a path and for ``random``."""
    return None if weights == RANDOM or weights.startswith("/") else HubName.parse(weights)


def find(
    weights: str | None, models_dir: Path | None, environ: Mapping[str, str] = os.environ
) -> Place:
    """Find the folder of base weights; ``random`` and None have none, without a problem.

    A path names the folder itself. A name on the hub is looked up in ``models_dir``, as
    ``org/name`` and as ``name``, then in the hub's cache, where ``hf download`` puts it.

    Args:
        weights: as ``model.weights`` names them, paths absolute.
        models_dir: of the profile.
        environ: has ``HF_HUB_CACHE``, ``HF_HOME`` and ``XDG_CACHE_HOME`` where they are set.
    """
    if weights is None or weights == RANDOM:
        return Place(None)
    name = hub_name(weights)
    if name is None:
        folder = Path(weights)
        fault = defect(folder)
        return Place(None, f"{folder} {fault}") if fault else Place(folder.resolve())
    faults = []
    for folder in (*below(models_dir, name), *snapshots(hub_cache(environ), name)):
        fault = defect(folder)
        if not fault:
            return Place(folder.resolve())
        if folder.exists():
            faults.append(f"; {folder} {fault}")
    where = f"not in the hub's cache, {hub_cache(environ)}"
    if models_dir:
        where = f"neither in models_dir, {models_dir}, nor{where[3:]}"
    return Place(None, f"{name} is {where}{''.join(faults)}")


def below(models_dir: Path | None, name: HubName) -> Iterator[Path]:
    """Yield the folders of ``models_dir`` that may hold a repository, in the order of preference.

    Without ``@revision`` in its name, a folder is of a revision only if its record states that.
    """
    if models_dir is None:
        return
    short = models_dir / name.repository.partition("/")[2]
    plain = (models_dir / name.repository, short)
    if not name.revision:
        yield from plain
        return
    yield name.folder(models_dir)
    yield short.with_name(f"{short.name}@{name.revision}")
    yield from (folder for folder in plain if name.revision in recorded_revisions(folder))


def recorded_revisions(folder: Path) -> set[str]:
    """Return the commit and the branch or tag that ``meditron fetch`` recorded; none without it."""
    record = read_fetched(folder)
    return {record.commit, record.revision} if record else set()


def hub_cache(environ: Mapping[str, str]) -> Path:
    """Return the folder in which the Hugging Face libraries keep repositories: ``HF_HUB_CACHE``,
    else ``HF_HOME/hub``, else ``~/.cache/huggingface/hub`` (huggingface_hub, constants.py).
    """
    home = environ.get("XDG_CACHE_HOME") or "~/.cache"
    home = environ.get("HF_HOME") or f"{home}/huggingface"
    return Path(environ.get("HF_HUB_CACHE") or f"{home}/hub").expanduser().absolute()


def snapshots(cache: Path, name: HubName) -> Iterator[Path]:
    """Yield the snapshot of a revision in the hub's cache: a commit is the name of a folder, a
    branch or a tag that of a file with a commit.
    """
    repository = cache / f"models--{name.repository.replace('/', '--')}"
    revision = name.revision or "main"
    yield repository / SNAPSHOTS / revision
    try:
        commit = (repository / "refs" / revision).read_text().strip()
    except (OSError, ValueError):
        return
    yield repository / SNAPSHOTS / commit


def defect(folder: Path) -> str:
    """Return why a folder does not hold a model with all its files; empty where it does.

    The sentence continues one that begins with the folder.
    """
    if not folder.is_dir():
        return "is not a folder" if folder.exists() else "does not exist"
    try:
        if not (folder / CONFIG).is_file():
            return f"has no {CONFIG}"
        names = shards(folder)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    except ValueError:
        return f"has no index of tensors in {INDEX}"
    if not names:
        return f"has neither {SINGLE} nor {INDEX}{only_pickles(folder)}"
    absent = [name for name in names if not (folder / name).is_file()]
    more = f" and {len(absent) - 1} more of its files" if absent[1:] else ""
    return f"lacks {absent[0]}{more}" if absent else ""


def only_pickles(folder: Path) -> str:
    """Return the end of a sentence about a folder without safetensors: the pickle that it has, and
    the command that writes a copy.
    """
    names = pickles(folder)
    if not names:
        return ""
    command, target = copy_command(folder)
    return (
        f", only {names[0]}, a pickle, which could run code; if you trust it, "
        f"`{command}` writes {target}"
    )


def shards(folder: Path) -> list[str]:
    """Return the names of the files with weights: those of the index, else the single one.

    Raises:
        ValueError: the index is not one.
        OSError: it cannot be read.
    """
    index = folder / INDEX
    if not index.is_file():
        return [SINGLE] if (folder / SINGLE).is_file() else []
    try:
        content = parse_json(index.read_bytes())
        return sorted({Path(name).name for name in content["weight_map"].values()})
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError("no weight_map") from error


def links(folder: Path) -> list[Path]:
    """Return the other folders to which the files of a model are symbolic links, as in a snapshot
    of the hub's cache; a container must see them too.
    """
    targets = {path.resolve().parent for path in folder.iterdir() if path.is_symlink()}
    return sorted(path for path in targets if not path.is_relative_to(folder))


def download_command(name: HubName, folder: Path | None, kind: str = "model") -> str:
    """Return the command of the hub's own program that downloads a repository without its pickles.

    Args:
        name: of the repository.
        folder: ``models_dir`` or ``data_dir``; None for the hub's cache.
        kind: ``model`` or ``dataset``.
    """
    words = ["hf", "download", name.repository, "--exclude", "*.bin", "--exclude", "*.pth"]
    if name.revision:
        words += ["--revision", name.revision]
    if kind != "model":
        words += ["--repo-type", kind]
    if folder:
        words += ["--local-dir", str(name.folder(folder))]
    return shlex.join(words)
