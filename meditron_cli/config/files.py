"""Find profiles, recipes and experiments by name, and read them as trees."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from importlib import resources
from pathlib import Path

from meditron_cli.config import yaml_tree
from meditron_cli.config.diagnostics import Location, Problems, Source
from meditron_cli.config.error_messages import did_you_mean
from meditron_cli.config.yaml_tree import Entry, MapNode, Node, ScalarNode

RANKS = {
    "--cluster": 0,
    "--size": 0,
    "recipe": 1,
    "facts": 1,
    "profile": 2,
    "experiment": 3,
    "--set": 4,
}
"""Layers by precedence, lowest first."""

DEFAULT_CONFIG = Path("experiment.yaml")
HINT_INIT = "`meditron init` writes experiment.yaml and a sample corpus into this folder"
HINT_CLUSTERS = "`meditron clusters` lists the profiles"
YAML_STARTS = ("[", "{", '"', "'", "|", ">", "&", "*", "!")
LARGEST_BYTES = 4 * 2**20
"""No configuration file is larger; something else was named by mistake."""


def shipped_profiles() -> Path:
    """Return the folder of the profiles that come with the package.

    It is found beside this package and not by its import name, which in a working folder with
    ``clusters/`` can mean that folder.
    """
    return Path(str(resources.files("meditron_cli"))).parent / "clusters"


def shipped_recipes() -> Path:
    """Return the folder of the recipes."""
    return Path(str(resources.files("meditron_cli.recipes")))


def profile_folders() -> tuple[Path, ...]:
    """Return the folders of profiles in search order."""
    return Path("clusters"), Path("~/.config/meditron/clusters").expanduser(), shipped_profiles()


def names_in(folders: Iterable[Path]) -> list[str]:
    """Return the names of the YAML files in some folders, sorted."""
    return sorted({path.stem for folder in folders for path in folder.glob("*.yaml")})


def cluster_names() -> list[str]:
    """Return the names that ``--cluster`` accepts."""
    return names_in(profile_folders())


def size_names() -> list[str]:
    """Return the names that ``--size`` accepts."""
    return names_in([shipped_recipes()])


def is_path(name: str) -> bool:
    """Return whether ``--cluster`` names a file instead of a profile."""
    return "/" in name or name.endswith((".yaml", ".yml"))


def find_profile(name: str, problems: Problems) -> Path | None:
    """Return the file of a profile; None, with a problem noted, if no folder has it."""
    if is_path(name):
        return Path(name)
    paths = (folder / f"{name}.yaml" for folder in profile_folders())
    existing = next((path for path in paths if path.is_file()), None)
    if existing is None:
        note_unknown("--cluster", name, "profile", cluster_names(), problems, HINT_CLUSTERS)
    return existing


def find_recipe(size: str, problems: Problems) -> Path | None:
    """Return the file of a recipe; None, with a problem noted, if there is none."""
    if size in size_names():
        return shipped_recipes() / f"{size}.yaml"
    note_unknown("--size", size, "recipe", size_names(), problems)
    return None


def note_unknown(
    option: str, name: str, kind: str, known: list[str], problems: Problems, hint: str = ""
) -> None:
    """Note that an option names something unknown, with the known names."""
    location = Location(source_of(option, f"{option} {name}", Path.cwd()))
    near = did_you_mean(name, known) or f"; there are {', '.join(known)}"
    problems.add(location, "", f"no {kind} has this name{near}", hint)


def source_of(layer: str, label: str, folder: Path) -> Source:
    """Return a source with its layer's rank."""
    return Source(layer, label, folder.absolute(), RANKS[layer])


def label_of(path: Path) -> str:
    """Return the name of a file for messages: relative if it lies below the current folder."""
    if path.is_absolute() and path.is_relative_to(Path.cwd()):
        return str(path.relative_to(Path.cwd()))
    return str(path)


def read_mapping(path: Path, layer: str, problems: Problems) -> MapNode | None:
    """Return the tree of a file of keys and values; None, with a problem noted, otherwise."""
    source = source_of(layer, label_of(path), path.parent)
    hint = "" if os.path.exists(path) else hint_of_absent(layer)
    text = read_text(path, lambda message: problems.add(Location(source), "", message, hint))
    root = None if text is None else yaml_tree.parse(text, source, problems)
    if root is not None and not isinstance(root, MapNode):
        problems.add(root.location, "", "expected keys with values, such as `name: med`")
        return None
    return root


def hint_of_absent(layer: str) -> str:
    """Return the hint about a file of a layer that does not exist."""
    if layer == "profile":
        return HINT_CLUSTERS
    if DEFAULT_CONFIG.is_file():
        return f"`meditron check {DEFAULT_CONFIG}` checks the experiment of this folder"
    return HINT_INIT


def read_text(path: Path, complain: Callable[[str], None]) -> str | None:
    """Return the text of a file; None after a complaint.

    A pipe or a device may have no end, so only regular files are opened.
    """
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            complain("a folder; name a file in it")
        elif not stat.S_ISREG(status.st_mode):
            complain("not a regular file")
        elif status.st_size > LARGEST_BYTES:
            complain(f"{status.st_size / 2**20:.0f} MiB is too large for a configuration file")
        else:
            return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        complain("no such file")
    except UnicodeDecodeError as error:
        complain(f"not UTF-8 text (byte {error.start}); save it as UTF-8")
    except OSError as error:
        complain(f"cannot be read: {error.strerror}")
    return None


def read_profile(name: str, problems: Problems) -> MapNode | None:
    """Return the tree of a profile, by name or path."""
    path = find_profile(name, problems)
    root = read_mapping(path, "profile", problems) if path else None
    if root and not is_path(name):
        check_name(root, name, problems)
    return root


def check_name(root: MapNode, name: str, problems: Problems) -> None:
    """Note a profile whose name is not its file's; a run's identity contains the name."""
    entry = root.entries.get("name")
    written = entry.node if entry else None
    if isinstance(written, ScalarNode) and written.value != name:
        message = f"{written.text!r} is not the file's name; write {name}"
        problems.add(written.location, "name", message)


def read_override(option: str, problems: Problems) -> MapNode | None:
    """Return the tree of one ``--set KEY=VALUE``; None, with a problem noted, if it is none.

    The value is YAML where it starts like a list, a mapping or a quoted text; otherwise the whole
    of it is one scalar, in which ``#`` and ``: `` have no meaning.
    """
    source = source_of("--set", f"--set {option}", Path.cwd())
    location = Location(source)
    key, equals, text = option.partition("=")
    steps = key.strip().split(".")
    if not equals or not all(steps):
        problems.add(location, "", "write KEY=VALUE, such as pretrain.train_steps=100")
        return None
    value: Node | None
    if text.lstrip().startswith(YAML_STARTS) or "\n" in text:
        value = yaml_tree.parse(text, source, problems)
    else:
        word = text.strip()
        value = ScalarNode(location, yaml_tree.plain_scalar(word), word)
    if value is None:
        return None
    if isinstance(value, MapNode) and not value.entries:
        problems.add(
            location,
            key.strip(),
            "an empty mapping changes nothing, since mappings are merged key by key; remove keys "
            "in the file that has them",
        )
        return None
    for step in reversed(steps):
        value = MapNode(location, {step: Entry(location, value)})
    return value if isinstance(value, MapNode) else None
