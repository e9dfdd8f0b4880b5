"""The pages are true: commands, options, YAML, transcripts, links and paths in them are checked.

A ``console`` block whose first line is ``# tested`` is run: every ``$ meditron …`` in it, in a
folder where ``meditron init`` was, one page's blocks after another. What follows a command is what
it must print, stdout and stderr together; ``…`` stands for any text, alone on a line for any lines.
"""

from __future__ import annotations

import ast
import importlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import NamedTuple

import click
import pytest

from jobs.contract import metrics_log
from jobs.contract.events import EVENT_TYPES
from jobs.contract.exit_record import ExitRecord
from meditron_cli import __version__
from meditron_cli.config.check import check_file
from meditron_cli.config.cluster_schema import Cluster
from meditron_cli.config.error_messages import dotted_keys
from meditron_cli.config.experiment_schema import Experiment
from meditron_cli.config.field_types import OPERATIONAL
from meditron_cli.config.load import load
from meditron_cli.config.section import Section, section_in
from meditron_cli.main import COMMANDS

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "clusters/README.md"])
README = ROOT / "README.md"
SECTIONS = (
    "Install",
    "A local demo in minutes",
    "Write a cluster profile",
    "The run directory",
    "Commands",
    "When things fail",
    "What it is not",
)
REGISTRIES = (
    "pypi.org",
    "pythonhosted.org",
    "pytorch.org/whl",
    "anaconda.org",
    "huggingface.co",
    "nvcr.io",
    "docker.io",
    "ghcr.io",
)
SOURCES = r"(?:jobs|meditron_cli|clusters|docs|tests|\.ci)"
"""Folders of this repository."""
MACHINE_PATHS = re.compile(r"(?<![\w.])/(work|root|Users|mnt)/\w")
REPLACED = {
    r"\bjanitor": "recovery job",
    r"\bautops": "stack dump, diagnosis",
    r"\blast words\b": "rank exit, exit record",
    r"\bgo(es|ne|ing)? on with\b": "resume, continue",
    r"\b(goes|going|went) on\b": "resumes, continues",
    r"\b(says|tells|hears)\b": "reports, shows, receives",
    r"\bwants\b": "requires",
    r"\bmend(s|ed|ing)?\b": "fix",
    r"\b(RESILIENCE|SLURM|MEDITRON|ARCHITECTURE)(\.md)?, (section )?\d": "a public source",
    r"\bdesign (RESILIENCE|SLURM|MEDITRON|ARCHITECTURE)\b": "a public source",
}
"""Words that the glossary in CONTRIBUTING.md replaces, and what to write instead."""
QUESTION_WORDS = re.compile(r"(How|What|When|Where|Whether|Which|Who|Whose|Why)\b")
NO_VERBS = re.compile(
    QUESTION_WORDS.pattern + "|A|All|An|Any|Are|As|At|By|Can|Each|Every|For|From|Has|If|In|Is|It"
    "|Its|No|None|Of|On|One|Only|Our|That|The|Their|There|These|This|Those|To|With|Without"
)
"""First words of docstrings without an imperative verb."""

TESTED = "# tested"
ANYTHING = "…"


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{name_of(self.page)}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text()
    for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        line = text.count("\n", 0, match.start()) + 1
        yield Block(page, line, match[1], match[2])


def all_blocks(language: str) -> list[Block]:
    return [block for page in PAGES for block in blocks(page) if block.language == language]


def blocks_to_run(page: Path) -> list[Block]:
    """Return the console blocks of a page whose commands are run."""
    consoles = (block for block in blocks(page) if block.language == "console")
    return [block for block in consoles if block.text.startswith(TESTED)]


def code(page: Path) -> Iterator[str]:
    """Yield everything of a page that is set as code: blocks, and what stands between backticks."""
    text = page.read_text()
    yield from (block.text for block in blocks(page))
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    yield from re.findall(r"`([^`\n]+)`", prose)


def commands_in(page: Path) -> set[str]:
    """Return the text after ``meditron`` where that begins a command."""
    begin = r"(?:^|[$;&(] ?)\s*meditron ([a-z][a-z-]*)"
    return {name for text in code(page) for name in re.findall(begin, text, re.MULTILINE)}


def tracked_files() -> list[Path]:
    done = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return [path for name in done.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def test_the_readme_shows_every_command_and_no_other() -> None:
    assert commands_in(README) == set(COMMANDS)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_page_names_only_commands_and_options_there_are(page: Path) -> None:
    assert commands_in(page) <= set(COMMANDS)
    for text in code(page):
        for name, rest in re.findall(r"meditron ([a-z]+)([^\n;|#`]*)", text):
            if name in COMMANDS:
                assert set(re.findall(r"--[a-z][a-z-]*", rest)) <= options_of(name), (name, rest)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_page_names_only_make_words_there_are(page: Path) -> None:
    words = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))

    named = {word for text in code(page) for word in re.findall(r"\bmake ([a-z-]+)", text)}

    assert named <= words


def options_of(name: str) -> set[str]:
    command: click.Command = importlib.import_module(f"meditron_cli.commands.{name}").command
    parts = [command, *(command.commands.values() if isinstance(command, click.Group) else ())]
    found = {option for part in parts for parameter in part.params for option in parameter.opts}
    return found | {"--help"}


@pytest.mark.parametrize("block", all_blocks("yaml"), ids=str)
def test_yaml_in_a_page_is_valid(block: Block, tmp_path: Path) -> None:
    path = tmp_path / "example.yaml"
    path.write_text(block.text)

    checked = check_file(path)

    assert checked.errors == ()
    if checked.kind == "experiment":
        load("local", "tiny", path, [])


@pytest.mark.parametrize("page", [page for page in PAGES if blocks_to_run(page)], ids=name_of)
def test_console_blocks_marked_as_tested_print_what_they_show(page: Path, tmp_path: Path) -> None:
    run("meditron init", tmp_path)

    for block in blocks_to_run(page):
        for command, expected in steps(block.text):
            printed = run(command, tmp_path)
            assert matches(expected, printed), f"{block}: {command} printed\n{printed}"


def test_some_console_blocks_are_tested() -> None:
    assert sum(len(blocks_to_run(page)) for page in PAGES) >= 5


def steps(text: str) -> Iterator[tuple[str, str]]:
    """Yield each command of a console block with what is to be printed."""
    for part in re.split(r"^\$ ", text.removeprefix(TESTED), flags=re.MULTILINE)[1:]:
        command, _, expected = part.partition("\n")
        yield command.partition("  #")[0], expected.rstrip("\n")


def run(command: str, folder: Path) -> str:
    """Return the output of a command, in a folder and with a home of its own."""
    program, *words = shlex.split(command)
    assert program == "meditron", f"only meditron is run, not {program}"
    kept = {"PATH", "LANG", "LC_ALL"}
    environ = {name: value for name, value in os.environ.items() if name in kept}
    done = subprocess.run(
        [sys.executable, "-m", "meditron_cli", *words],
        cwd=folder,
        env={**environ, "PYTHONPATH": str(ROOT), "HOME": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.stdout.rstrip("\n")


def matches(expected: str, printed: str) -> bool:
    """Return whether a text is the expected one; blanks at line ends do not count."""
    lines = (re.escape(line.rstrip()) for line in expected.splitlines())
    pattern = "\n".join("(?s:.*)" if line == ANYTHING else line for line in lines)
    text = "\n".join(line.rstrip() for line in printed.splitlines())
    return re.fullmatch(pattern.replace(ANYTHING, ".*"), text) is not None


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_relative_links_resolve(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())

    local = [target for target in targets if "://" not in target]

    assert [target for target in local if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_to_headings_resolve(page: Path) -> None:
    for target, heading in re.findall(r"\]\(([^)#\s]*)#([^)\s]+)\)", page.read_text()):
        if "://" not in target:
            text = (page.parent / target if target else page).read_text()
            headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
            names = {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in headings}
            assert heading in names, (target, heading)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_and_modules_that_a_page_names_exist(page: Path) -> None:
    files, named = python_files(), list(code(page))
    known = {path.name for path in tracked_files()}
    paths = [name for name in named if re.fullmatch(rf"{SOURCES}/[\w./-]*", name)]
    others = [name for name in named if re.fullmatch(r"[\w-]+\.(py|toml|yml)", name)]
    modules = [name for text in named for name in re.findall(rf"\b{SOURCES}(?:\.\w+)+", text)]

    assert [name for name in paths if not (ROOT / name).exists()] == []
    assert [name for name in others if name not in known] == []
    assert [name for name in modules if name not in files] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_keys_of_the_configuration_that_a_page_names_exist(page: Path) -> None:
    keys = {*dotted_keys(Experiment), *dotted_keys(Cluster)}
    sections = {key.partition(".")[0] for key in keys if "." in key}

    named = {
        match[1]
        for text in code(page)
        if (match := re.fullmatch(r"((\w+)(?:\.\w+)+)(?:[:=].*)?", text)) and match[2] in sections
    }
    files = {name for name in named if ".safetensors" in name}

    assert named - files <= keys


def test_defaults_in_the_pages_are_those_of_the_schema() -> None:
    text = "\n".join(page.read_text() for page in PAGES if page.parent.name == "docs")
    keys = set(dotted_keys(Experiment))
    named = re.findall(r"`(\w+\.\w+)`(?:, | \()(\d+(?:\.\d+)?)\b", text)

    wrong = [pair for pair in named if pair[0] in keys and default_at(pair[0]) != float(pair[1])]

    assert len(named) >= 4
    assert wrong == []


def default_at(key: str) -> object:
    """Return the default of a key of an experiment."""
    section, _, name = key.partition(".")
    inside = section_in(Experiment.model_fields[section].annotation)
    assert inside is not None
    return inside.model_fields[name].default


def test_the_page_on_configuration_lists_all_settings_that_continue_a_run() -> None:
    text = (ROOT / "docs/configuration.md").read_text().partition("only how a run is executed")[2]
    items = text.partition("So may the profile")[0]

    assert set(re.findall(r"`(.+?)`", items)) == set(operational_keys(Experiment, ""))


def operational_keys(model: type[Section], prefix: str) -> Iterator[str]:
    """Yield the keys of an experiment that decide how a run is executed, not what it trains."""
    for name, field in model.model_fields.items():
        inside = section_in(field.annotation)
        if OPERATIONAL in field.metadata:
            yield prefix + name
        elif inside:
            yield from operational_keys(inside, f"{prefix}{name}.")


def test_the_page_on_the_run_directory_lists_all_events_and_keys() -> None:
    lines = metrics_log.LINE_TYPES.values()
    metrics = {item.metadata.get("key", item.name) for line in lines for item in fields(line)}
    record = {item.metadata.get("key", item.name) for item in fields(ExitRecord)}

    assert first_column("Events") >= set(EVENT_TYPES)
    assert first_column("Exit records") == {*record, "class"} - {None}
    assert metrics <= set(re.findall(r"`(\w+)`", section_of("Metrics")))


def section_of(title: str) -> str:
    """Return a section of the page on the run directory."""
    text = (ROOT / "docs/run-directory.md").read_text()
    return text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def first_column(title: str) -> set[str]:
    """Return the code in the first column of a section's table."""
    rows = re.findall(r"^\|(.+?) \| ", section_of(title), re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`(\w+)`", row)}


def test_the_readme_keeps_its_order_and_its_length() -> None:
    text = README.read_text()

    assert tuple(re.findall(r"^## (.+)$", text, re.MULTILINE)) == SECTIONS
    assert len(text.splitlines()) < 250


def test_the_change_log_has_this_version() -> None:
    versions = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)

    assert versions[0] == "Unreleased"
    assert __version__ in versions


def test_replaced_words_occur_in_no_file() -> None:
    patterns = {re.compile(word, re.IGNORECASE): better for word, better in REPLACED.items()}
    found = []
    for path in tracked_files():
        if path.suffix not in (".py", ".md", ".yaml", ".sh", ".toml") or path == Path(__file__):
            continue
        for number, line in enumerate(path.read_text().splitlines(), 1):
            found += [
                f"{path.relative_to(ROOT)}:{number}: {match[0]!r}; write {better!r}"
                for pattern, better in patterns.items()
                if (match := pattern.search(line))
            ]

    assert found == []


PROSE = re.compile(r"#.*|\"\"\"(?s:.*?)\"\"\"")
OTHERS = {"re", "subprocess", "torch", "Tensor", "FileSystemWriterAsync", "distrib_optimizer"}
"""Modules and classes of other packages that docstrings name."""
SUFFIXES = ("events", "gz", "json", "jsonl", "oom_control", "toml", "yaml")
"""Of files and cgroup counters."""


def python_files() -> dict[str, Path]:
    """Return our modules, by dotted name."""
    folders = ("jobs", "meditron_cli", "clusters", "tests")
    paths = [path for path in tracked_files() if path.suffix == ".py"]
    names = {path: path.relative_to(ROOT).with_suffix("").parts for path in paths}
    return {
        ".".join(parts).removesuffix(".__init__"): path
        for path, parts in names.items()
        if parts[0] in folders
    }


class Documented(NamedTuple):
    """A module, function or class that has a docstring."""

    path: Path
    node: type[ast.AST]
    place: str
    """Line and name."""
    text: str


class Source(NamedTuple):
    """The docstrings and names of a file."""

    documented: list[Documented]
    """Of modules, functions and classes, but for tests, whose names are sentences."""
    names: set[str]
    """Defined or set, in classes and functions too."""


@cache
def source(path: Path) -> Source:
    """Return what a file has; its syntax tree, which is large, is not kept."""
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    found, names = [], set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, definitions):
            names.add(node.name)
        elif isinstance(node, ast.Name):
            names.add(node.id)
        elif isinstance(node, ast.Attribute):
            names.add(node.attr)
        if (
            isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef)
            and not (name := getattr(node, "name", "")).startswith("test_")
            and (text := ast.get_docstring(node))
        ):
            place = f"{getattr(node, 'lineno', 1)}: {name}"
            found.append(Documented(path, type(node), place, text))
    return Source(found, names)


def documented() -> Iterator[Documented]:
    """Yield all that has a docstring, but for tests."""
    for path in python_files().values():
        yield from source(path).documented


def test_dotted_names_in_docstrings_and_comments_exist() -> None:
    """``errors.FAILED``, ``jobs.contract.errors``, ``RunDir.stop_file``; keys of a configuration
    are theirs too.
    """
    files = python_files()
    names = {module: source(path).names for module, path in files.items()}
    keys = {*dotted_keys(Experiment), *(f"cluster.{key}" for key in dotted_keys(Cluster))}

    def exists(name: str) -> bool:
        owner, _, last = name.rpartition(".")
        if name in keys or name.split(".")[0] in OTHERS or last in SUFFIXES:
            return True
        if last == "py":
            return any(path.name == name for path in files.values())
        if any(f".{module}".endswith(f".{name}") for module in files):
            return True
        modules = [module for module in files if f".{module}".endswith(f".{owner}")]
        modules = modules or [m for m in files if owner.rpartition(".")[2] in names[m]]
        return any(last in names[module] for module in modules)

    dead = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in files.values()
        for prose in PROSE.findall(path.read_text())
        for name in re.findall(r"``([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+)(?:\(\))?``", prose)
        if not exists(name)
    ]

    assert dead == []


def test_docstrings_of_functions_begin_with_a_verb() -> None:
    others = []
    for path, node, place, text in documented():
        first = text.split()[0]
        is_verb = re.fullmatch(r"[A-Z][a-z-]+[,;:]?", first) and not NO_VERBS.fullmatch(first)
        if node is ast.FunctionDef and not is_verb:
            others.append(f"{path.relative_to(ROOT)}:{place}: {first}")

    assert others == []


def test_docstrings_of_modules_and_classes_are_no_questions() -> None:
    questions = [
        f"{path.relative_to(ROOT)}: {text.splitlines()[0]}"
        for path, node, _, text in documented()
        if node is not ast.FunctionDef and QUESTION_WORDS.match(text)
    ]

    assert questions == []


def test_no_tracked_file_names_a_machine_or_a_package_registry() -> None:
    found = []
    for path in tracked_files():
        if path == Path(__file__).resolve():
            continue
        text = path.read_text(errors="replace")
        words = [word for word in (*REGISTRIES, f"{ROOT}/") if word in text]
        words += [match[0] for match in MACHINE_PATHS.finditer(text)]
        found += [f"{path.relative_to(ROOT)}: {word}" for word in words]

    assert found == []
