"""Shell completion: the script, and what it asks for."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from ...conftest import Bench


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_script_of_each_shell_calls_meditron(meditron: Bench, shell: str) -> None:
    result = meditron("completion", shell)

    assert result.exit_code == 0
    assert f"_MEDITRON_COMPLETE={shell}_complete" in result.stdout


def completions(bench: Bench, words: str, position: int) -> list[str]:
    """Return what the script gets for a command line, its last word incomplete."""
    asked = {
        "COMP_WORDS": words,
        "COMP_CWORD": str(position),
        "_MEDITRON_COMPLETE": "bash_complete",
        "MEDITRON_RUNS": str(bench.runs),
    }
    done = subprocess.run(
        [sys.executable, "-m", "meditron_cli"],
        env={**os.environ, **asked},
        capture_output=True,
        text=True,
        check=True,
    )
    return [line.partition(",")[2] for line in done.stdout.splitlines()]


def test_commands_options_and_runs_are_completed(meditron: Bench) -> None:
    meditron.submit(stage="curate")
    name = meditron.run().name

    assert completions(meditron, "meditron su", 1) == ["submit"]
    assert completions(meditron, "meditron logs --fo", 2) == ["--follow"]
    assert completions(meditron, "meditron status tri", 2) == [name]
    assert completions(meditron, "meditron cancel tri", 2) == [name]
