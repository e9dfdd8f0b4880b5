"""Examine a folder of base weights before anything is read from it but its headers. No torch."""

from __future__ import annotations

import re
from pathlib import Path

from jobs.contract.errors import TaskError
from jobs.contract.stage_specs import ModelSpec, TokenizerRef
from jobs.conversion import hf_config, hf_reader, weight_map
from jobs.data import base_tokenizer, tokenizer_file

CARD = "README.md"
HEADER = re.compile(r"\A---\n(.*?)^---$", re.DOTALL | re.MULTILINE)
LICENSE = re.compile(r"^license: *['\"]?([\w.-]+)['\"]? *$", re.MULTILINE)


def stated_license(path: Path) -> str:
    """Return the licence in the header of a folder's card, by its identifier on the hub; empty
    where there is none.
    """
    try:
        text = (path / CARD).read_text(errors="replace")
    except OSError:
        return ""
    header = HEADER.match(text)
    stated = LICENSE.search(header[1]) if header else None
    return stated[1] if stated else ""


def require_importable(path: Path, model: ModelSpec, base: int) -> hf_reader.Folder:
    """Return a folder if it holds a run's model, whole.

    Args:
        path: the folder.
        model: of the run.
        base: rows of the run's vocabulary without added tokens.

    Raises:
        TaskError: it does not; the first reason.
    """
    folder = hf_reader.open_folder(path)
    different = list(hf_config.differences(hf_reader.describe(folder), model, base))
    if different:
        raise TaskError(
            f"{path} holds another model than this run's: {'; '.join(different)}",
            "name the folder of this model (model.weights), or the size of that one (--size)",
        )
    expected = weight_map.folder_shapes(model, base)
    problem = hf_reader.account(folder, expected, tied=model.tied_embeddings)
    if problem:
        raise TaskError(problem, hf_reader.DOWNLOAD)
    return folder


def require_tokenizer(path: Path, ref: TokenizerRef) -> None:
    """Refuse a run's tokenizer that gives the rows of a base model to other tokens than the model's
    own does. A folder without a tokenizer is not compared.

    Raises:
        TaskError: a token differs, or a tokenizer cannot be read.
    """
    try:
        base = base_tokenizer.base_tokens(path)
    except (ValueError, OSError) as error:
        raise TaskError(
            f"{path}: its tokenizer cannot be read ({error})", hf_reader.DOWNLOAD
        ) from error
    table = tokenizer_file.require_tokens(ref)
    difference = base and base_tokenizer.base_difference(table, base, ref.vocabulary)
    if difference:
        raise TaskError(
            f"{ref.path} is not the tokenizer of the base model in {path}: {difference}",
            "make one from the model's own with `meditron tokenizer build`, and set "
            "tokenize.tokenizer to it",
        )
