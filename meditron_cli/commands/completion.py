"""``meditron completion``: the script by which a shell completes commands, options and runs."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from meditron_cli import console

VARIABLE = "_MEDITRON_COMPLETE"
"""Set by the script when the shell requests completions; the name that click derives."""

CHANGES = {
    "bash": (
        "\n    return 0\n}",
        "\n    if [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *= ]]; then compopt -o nospace; fi"
        "\n\n    return 0\n}",
    ),
    "zsh": (
        "compadd -U -V unsorted -a completions",
        "local space=(); [[ $completions[1] == *= ]] && space=(-S '')\n"
        "        local option=${words[CURRENT]%%=*}\n"
        '        [[ $words[CURRENT] == --*=* ]] && completions=("$option="$^completions)\n'
        '        compadd -U -V unsorted "${space[@]}" -a completions',
    ),
    "fish": ('string split ","', 'string split --max 1 ","'),
}
"""Text of click's script, and what replaces it: no space follows ``KEY=``, as none does in fish,
where descriptions have commas; zsh keeps ``--OPTION=`` before a value.
"""


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    Load it in the shell's start-up file: `eval "$(meditron completion bash)"` in ~/.bashrc (bash
    4.4 or later) or `eval "$(meditron completion zsh)"` in ~/.zshrc, after compinit; `meditron
    completion fish > ~/.config/fish/completions/meditron.fish` once.
    """
    kind = get_completion_class(shell)
    assert kind is not None, shell
    script = kind(ctx.find_root().command, {}, "meditron", VARIABLE)
    source = script.source_template % script.source_vars()
    console.data(source.replace(*CHANGES.get(shell, ("", ""))))
