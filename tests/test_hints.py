"""Hints are whole commands: each parses, and names its run so that it works when pasted."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click

from jobs.contract.errors import RESUME
from meditron_cli.main import COMMANDS, main

ROOT = Path(__file__).parents[1]
VALUE = "pretrain"
"""Stands for a value that is known only when the program runs: a run, a stage, a folder."""
VAGUE = re.compile(r"\b(submit|try|run)\b[^`]*\bagain\b|`--new`|start another run")
"""Advice that leaves the command to the reader."""
QUOTED = re.compile(r"`(meditron [^`]*)`|\{(meditron [^}]*)\}")
FORMATTED = re.compile(
    r"meditron (?:resume|cancel|status|logs|report|checkpoints|recover|rm) (?:--\w+ )*\{"
)
"""A command whose run or runs directory is formatted by hand: ``RunDir.command`` does that."""
HINT_NAMES = re.compile(r"hint|.*HINTS?(_[A-Z]+)?|AGAIN|advice|STOP_HINT")
ERROR_NAMES = re.compile(
    r".*(Error|Failed|Held|Elsewhere|Damaged|Refused|Exists|Loss|Inputs)|Unhealthy|refuse"
)


def sources() -> Iterator[tuple[Path, ast.Module]]:
    for package in ("jobs", "meditron_cli"):
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path.relative_to(ROOT), ast.parse(path.read_text())


def text_of(node: ast.expr) -> str:
    """Return a string expression as text, with ``VALUE`` for what is known only at run time."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) for part in node.values)
    if isinstance(node, ast.FormattedValue):
        return text_of(node.value)
    if isinstance(node, ast.BoolOp):  # a hint, or another where that is empty
        return "; ".join(map(text_of, node.values))
    if isinstance(node, ast.BinOp):
        return text_of(node.left) + text_of(node.right)
    if isinstance(node, ast.Call) and (words := command_words(node)):
        return shlex.join(words)
    is_resume = isinstance(node, ast.Name) and node.id == "RESUME"
    return RESUME if is_resume else VALUE


def command_words(call: ast.Call) -> list[str]:
    """Return the words that ``RunDir.command``, ``store.command`` or ``store.command_below``
    returns; none for another call.
    """
    name = name_of(call.func)
    if name not in ("command", "command_below"):
        return []
    words = [word_of(arg) for arg in call.args]
    first = next((number for number, word in enumerate(words) if word in COMMANDS), None)
    if first is None or (
        isinstance(call.func, ast.Attribute) and name_of(call.func.value) == "click"
    ):
        return []
    return ["meditron", *map(str, words[first:]), *([VALUE] if name == "command" else [])]


def word_of(node: ast.expr) -> str:
    """Return an argument of a command; ``str(…)`` is a number."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    return "1" if isinstance(node, ast.Call) and name_of(node.func) == "str" else VALUE


def name_of(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def hints(tree: ast.Module) -> Iterator[ast.expr]:
    """Yield the expressions of hints: by argument, by variable, and after ``hint: ``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg and HINT_NAMES.fullmatch(node.arg):
            yield node.value
        elif isinstance(node, ast.Call) and ERROR_NAMES.fullmatch(name_of(node.func)):
            yield from node.args[1:]
        elif isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(HINT_NAMES.fullmatch(name_of(target)) for target in targets):
                yield from node.value.values if isinstance(node.value, ast.Dict) else [node.value]
        elif isinstance(node, (ast.Constant, ast.JoinedStr)) and "hint: " in text_of(node):
            yield node


def refusal(words: list[str]) -> str:
    """Return why ``meditron`` would refuse these words before it does anything; empty if not."""
    command = main.get_command(click.Context(main), words[1])
    if command is None:
        return "no such command"
    try:
        command.make_context(words[1], words[2:])
    except click.exceptions.NoArgsIsHelpError:
        return ""
    except click.exceptions.Exit:  # --help
        return ""
    except click.ClickException as error:
        return error.format_message()
    return ""


def test_a_hint_is_a_command_that_meditron_accepts() -> None:
    wrong = []
    for path, tree in sources():
        for node in hints(tree):
            text = text_of(node)
            where = f"{path}:{node.lineno}: {text}"
            if VAGUE.search(text):
                wrong.append(f"{where}: no command")
            for plain, to_complete in QUOTED.findall(text):
                words = shlex.split(plain) or [*shlex.split(to_complete), VALUE]
                if problem := refusal(words):
                    wrong.append(f"{where}: {problem}")

    assert wrong == []


def test_commands_about_a_run_are_made_in_one_place() -> None:
    wrong = []
    for path, tree in sources():
        for node in ast.walk(tree):
            words = command_words(node) if isinstance(node, ast.Call) else []
            if words and (problem := refusal(words)):
                wrong.append(f"{path}: {shlex.join(words)}: {problem}")
            if isinstance(node, ast.JoinedStr) and FORMATTED.search(ast.unparse(node)):
                wrong.append(f"{path}:{node.lineno}: a command formatted by hand")

    assert wrong == []
