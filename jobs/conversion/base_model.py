"""Examine a folder of base weights before anything is read from it but its headers. No torch."""

from __future__ import annotations

import re
from pathlib import Path

from jobs.contract.errors import TaskError
from jobs.contract.stage_specs import ModelSpec, TokenizerRef, VocabularySpec
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


def require_importable(
    path: Path, model: ModelSpec, vocabulary: VocabularySpec
) -> hf_reader.Folder:
    """Return a folder if it holds a run's model, whole.

    Args:
        path: the folder.
        model: of the run.
        vocabulary: of the run.

    Raises:
        TaskError: it does not; the first reason.
    """
    folder = hf_reader.open_folder(path)
    described, base = hf_reader.describe(folder), vocabulary.base_rows
    different = list(hf_config.differences(described, model, base))
    if different:
        hint = f"{hf_reader.ANOTHER}, and `meditron submit --help` how to name a size"
        rows = int(described.architecture["vocab_size"])
        if len(different) == 1 and rows > base:
            hint = tokenizer_file.unused_rows_hint(rows, vocabulary.base_size, vocabulary)
        raise TaskError(f"{path} holds another model than this run's: {'; '.join(different)}", hint)
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
