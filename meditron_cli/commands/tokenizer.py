"""``meditron tokenizer``: make the tokenizer.json of an experiment."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from meditron_cli.commands import options
from meditron_cli.errors import ConfigError

if TYPE_CHECKING:
    from meditron_cli.config.cluster_schema import Cluster
    from meditron_cli.config.experiment_schema import Experiment

INSTALL = "pip install 'meditron[weights]'"


@click.group(
    "tokenizer",
    short_help="Build the tokenizer of an experiment.",
    invoke_without_command=True,
)
@click.pass_context
def command(ctx: click.Context) -> None:
    """Make tokenizers."""
    from meditron_cli import console

    if ctx.invoked_subcommand is None:
        console.data(ctx.get_help())


@command.command("build", short_help="Add an experiment's tokens to its base model's tokenizer.")
@click.argument("source", type=click.Path(path_type=Path), required=False)
@options.experiment_options
@click.option(
    "output",
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write it here; default: tokenize.tokenizer, else ./tokenizer.json.",
)
@options.json_option
def build(
    source: Path | None,
    cluster: str | None,
    size: str,
    config: Path | None,
    overrides: tuple[str, ...],
    output: Path | None,
    as_json: bool,
) -> None:
    """Make a tokenizer.json of SOURCE and the tokens of `vocabulary`, each at its own id.

    SOURCE is a tokenizer.model of SentencePiece or of Llama 3, a tokenizer.json, or a folder with
    either; default: the folder of model.weights. The ids of a fixed set of difficult texts are
    compared with those of the library sentencepiece, of tiktoken for Llama 3's file, or of
    tokenizers where there is neither. The first difference is reported, and nothing is written.
    """
    import hashlib

    from jobs.contract.errors import TaskError
    from jobs.contract.files import write_bytes
    from jobs.tokenization import tokenizer_build
    from meditron_cli import console
    from meditron_cli.config.load import load_experiment
    from meditron_cli.plan.spec_parts import vocabulary_spec

    experiment, profile = load_experiment(cluster, size, config, overrides)
    vocabulary = vocabulary_spec(experiment)
    target = output or experiment.tokenize.tokenizer or Path("tokenizer.json")
    place = source or base_folder(experiment, profile)
    try:
        built = tokenizer_build.build(place, vocabulary)
    except TaskError as error:
        raise ConfigError(error.message, error.hint) from error
    except ModuleNotFoundError as error:
        raise ConfigError(f"the library {error.name} is not installed", f"`{INSTALL}`") from error
    require_free(target, built.data)
    write_bytes(target, built.data)
    digest = hashlib.sha256(built.data).hexdigest()
    if as_json:
        console.json_out(
            {
                "file": str(target),
                "sha256": digest,
                "tokens": built.tokens,
                "added": len(vocabulary.added_tokens),
                "reference": built.reference,
                "texts": built.comparison.texts,
                "compared_tokens": built.comparison.tokens,
            }
        )
        return
    texts, tokens = built.comparison.texts, built.comparison.tokens
    console.data(
        f"{target}: {built.tokens} tokens, {len(vocabulary.added_tokens)} of them added, SHA-256 "
        f"{digest[:12]}\n"
        f"compared {texts} texts of {tokens} tokens with {built.reference}: identical ids"
    )


def base_folder(experiment: Experiment, profile: Cluster | None) -> Path:
    """Return the folder of the base model.

    Raises:
        ConfigError: there is none, or it is not on this machine.
    """
    from meditron_cli.config import weights

    named = experiment.model.weights
    hint = "name a tokenizer.model, a tokenizer.json, or a folder with either as SOURCE"
    if named is None or named == weights.RANDOM:
        raise ConfigError("model.weights names no base model, so there is no tokenizer of it", hint)
    place = weights.find(named, profile.models_dir if profile else None)
    if place.folder is None:
        more = "" if profile else "; --cluster NAME names a profile with models_dir"
        raise ConfigError(f"model.weights: {place.problem}", f"{hint}{more}")
    return place.folder


def require_free(target: Path, data: bytes) -> None:
    """Refuse to replace a file that has other content.

    Raises:
        ConfigError: it has.
    """
    if not target.exists() or (target.is_file() and target.read_bytes() == data):
        return
    remove = shlex.join(["rm", str(target)])
    raise ConfigError(
        f"{target} exists and differs from the tokenizer that was built",
        f"write another file with --output, or `{remove}` first",
    )
