"""Shell completion: the script, and what it asks for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ...conftest import Bench


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_script_of_each_shell_calls_meditron(meditron: Bench, shell: str) -> None:
    result = meditron("completion", shell)

    assert result.exit_code == 0
    assert f"_MEDITRON_COMPLETE={shell}_complete" in result.stdout
    ours = {
        "bash": "compopt -o nospace",
        "zsh": 'completions=("$option="$^completions)',
        "fish": "split --max 1",
    }
    assert ours[shell] in result.stdout


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


BASH = """
eval "$(meditron completion bash)"
compopt() { printf 'compopt %%s %%s\n' "$@"; }
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
