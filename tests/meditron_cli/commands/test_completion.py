"""Shell completion: the script, and what it asks for."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from ...conftest import Bench
from ...ranks import PATIENCE
from ...system import require_program


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_script_of_each_shell_calls_meditron(meditron: Bench, shell: str) -> None:
    result = meditron("completion", shell)

    assert result.exit_code == 0
    assert f"_MEDITRON_COMPLETE={shell}_complete" in result.stdout
    ours = {
        "bash": ("COMP_CWORD=${#ends}", "compopt -o nospace"),
        "zsh": ("compset -P 1 '--*='", 'compadd -V unsorted "${space[@]}"'),
        "fish": ("split --max 1", "_completion | string replace"),
    }
    assert all(text in result.stdout for text in ours[shell])


def completions(bench: Bench, words: str, position: int, shell: str = "bash") -> list[str]:
    """Return what the script gets for a command line, its last word incomplete."""
    asked = {
        "COMP_WORDS": words,
        "COMP_CWORD": words.split()[-1] if shell == "fish" else str(position),
        "_MEDITRON_COMPLETE": f"{shell}_complete",
        "MEDITRON_RUNS": str(bench.runs),
    }
    done = subprocess.run(
        [sys.executable, "-m", "meditron_cli"],
        env={**os.environ, **asked},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    if shell == "zsh":
        return lines[1::3]
    return [line.partition(",")[2].partition("\t")[0] for line in lines]


def test_commands_options_and_runs_are_completed(meditron: Bench) -> None:
    meditron.submit(stage="curate")
    name = meditron.run().name

    assert completions(meditron, "meditron su", 1) == ["submit"]
    assert completions(meditron, "meditron logs --fo", 2) == ["--follow"]
    assert completions(meditron, "meditron status tri", 2) == [name]
    assert completions(meditron, "meditron cancel tri", 2) == [name]
    assert completions(meditron, "meditron help rep", 2) == ["report"]
    assert completions(meditron, "meditron help corpus sa", 3) == ["sample"]


def test_a_line_with_a_wrong_command_is_completed_without_an_error(meditron: Bench) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "meditron_cli"],
        env={
            **os.environ,
            "COMP_WORDS": "meditron nosuch x",
            "COMP_CWORD": "2",
            "_MEDITRON_COMPLETE": "bash_complete",
        },
        capture_output=True,
        text=True,
        check=True,
    )

    assert (done.stdout.strip(), done.stderr) == ("", "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_clusters_recipes_and_keys_are_completed(
    meditron: Bench, project: Path, shell: str
) -> None:
    (project / "clusters").mkdir()
    (project / "clusters/ours.yaml").touch()

    def complete(words: str) -> list[str]:
        return completions(meditron, words, len(words.split()) - 1, shell)

    assert complete("meditron plan pretrain --cluster our") == ["ours"]
    assert complete("meditron nodes --cluster generic-h") == ["generic-h100"]
    assert complete("meditron plan pretrain --size 7") == ["70b", "7b"]
    assert complete("meditron submit pretrain --set pretrain.train_st") == ["pretrain.train_steps="]
    assert complete("meditron submit pretrain --set notif") == ["notify="]
    assert complete("meditron explain pretrain.phases.from_t") == ["pretrain.phases.from_tokens"]
    assert complete("meditron explain cluster.runs") == ["cluster.runs_dir"]


START = {
    "bash": ["bash", "--norc", "--noprofile", "-i"],
    "zsh": ["zsh", "-f", "-i"],
    "fish": ["fish", "--no-config", "-c", "source script; complete -C $line >shown"],
}
"""Interactive shells; fish, which asks its terminal many questions, completes a line by itself."""


def completed(bench: Bench, shell: str, line: str) -> str:
    """Return what a shell makes of a line and the tabulator, in a terminal."""
    require_program(shell)
    Path("script").write_text(bench("completion", shell).stdout)
    load = "autoload -Uz compinit; compinit -u -D; " if shell == "zsh" else ""
    show = 'meditron() { echo "$*" >shown; }'
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        START[shell],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "PATH": path, "TERM": "dumb", "line": line},
        start_new_session=True,
    )
    os.close(theirs)
    watchdog = threading.Timer(PATIENCE, child.kill)
    watchdog.start()
    os.write(ours, f"{load}. ./script; {show}\n{line}\t\nexit\n".encode())
    with suppress(OSError):  # which marks the end of a terminal
        while os.read(ours, 4096):
            pass
    child.wait()
    watchdog.cancel()
    os.close(ours)
    return Path("shown").read_text().removeprefix("meditron ").partition("\t")[0].strip()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize(
    ("word", "whole"),
    [
        ("nodes --cluster=generic-h", "--cluster=generic-h100"),
        ("plan --set=seed=3 --config=exp", "--config=experiment.yaml"),
    ],
)
def test_a_value_behind_an_equals_sign_is_completed(
    meditron: Bench, project: Path, shell: str, word: str, whole: str
) -> None:
    assert completed(meditron, shell, f"meditron {word}").endswith(whole)


BASH = """
eval "$(meditron completion bash)"
compopt() { printf 'compopt %%s %%s\\n' "$@"; }
COMP_WORDS=(meditron submit pretrain --set %s)
COMP_CWORD=4
COMPREPLY=()
_meditron_completion meditron
echo "${COMPREPLY[*]}"
"""


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("pretrain.train_st", "compopt -o nospace\npretrain.train_steps=\n"),
        ("notify.to", "\n"),
    ],
)
def test_bash_puts_no_space_between_a_key_and_its_value(
    meditron: Bench, word: str, shown: str
) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"

    done = subprocess.run(
        ["bash", "-c", BASH % word],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout == shown
