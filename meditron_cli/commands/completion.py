"""``meditron completion``: the script by which a shell completes commands, options and runs."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from meditron_cli import console

VARIABLE = "_MEDITRON_COMPLETE"
"""Set by the script when the shell requests completions; the name that click derives."""

CHANGES = {
    "bash": (
        (
            'response=$(env COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD=$COMP_CWORD',
            'local words="${COMP_WORDS[*]:0:COMP_CWORD+1}"\n'
            "    words=${words//$'\\n=\\n'/=}\n"
            "    words=${words/%$'\\n='/=}\n"
            "    local ends=${words//[!$'\\n']}\n\n"
            '    response=$(env COMP_WORDS="$words" COMP_CWORD=${#ends}',
        ),
        (
            "\n    return 0\n}",
            "\n    if [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *= ]]; then\n"
            "        compopt -o nospace\n    fi\n\n    return 0\n}",
        ),
    ),
    "zsh": (
        (
            "compadd -U -V unsorted -a completions",
            "local space=(); [[ $completions[1] == *= ]] && space=(-S '')\n"
            '        compadd -V unsorted "${space[@]}" -a completions',
        ),
        (
            "    for type key descr",
            "    compset -P 1 '--*='\n    for type key descr",
        ),
    ),
    "fish": (
        ('string split ","', 'string split --max 1 ","'),
        (
            "(_meditron_completion)",
            "(_meditron_completion | string replace --regex '^' -- "
            "(string match --regex -- '^--[^=]*=' (commandline -t); or echo ''))",
        ),
    ),
}
"""Text of click's script, and what replaces it: no space follows ``KEY=``, as none does in fish,
where descriptions have commas. Of ``--OPTION=VALUE`` the value is completed: the word is three in
bash, and the names of values do not begin like it in zsh and fish.
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
    for change in CHANGES[shell]:
        source = source.replace(*change)
    console.data(source)
