"""Exported folders that cannot answer for a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs.contract.errors import TaskError
from jobs.contract.files import sha256, write_json
from jobs.data.tokenizer_file import Encoder
from jobs.evaluation.exported_model import ExportedModel

from ...byte_tokenizer import EOD, SIZE, write_byte_tokenizer
from ...model_specs import tokenizer_ref


def export(folder: Path, rows: int = SIZE, **config: object) -> Path:
    """Write what is read of an exported folder before its weights are."""
    folder.mkdir()
    settings = {"vocab_size": rows, "max_position_embeddings": 64, "eos_token_id": 256, **config}
    (folder / "config.json").write_text(json.dumps(settings))
    write_byte_tokenizer(folder / "tokenizer.json")
    write_json(folder / "meditron.json", {"step": 7, "digests": {}, "files": {}})
    return folder


@pytest.fixture
def encoder(tmp_path: Path) -> Encoder:
    path = tmp_path / "tokenizer.json"
    write_byte_tokenizer(path)
    return Encoder.load(tokenizer_ref(str(path), sha256(path), EOD, SIZE))


def test_an_export_of_the_run_has_its_tokens_and_their_ends(tmp_path, encoder):
    model = ExportedModel.read(export(tmp_path / "export", eos_token_id=[256, 3]))

    model.require_tokens(encoder)

    assert (model.step, model.context, model.rows) == (7, 64, SIZE)
    assert model.stop_tokens(encoder) == (256, 3)


def test_ids_without_a_row_are_refused(tmp_path, encoder):
    folder = export(tmp_path / "export", rows=SIZE - 1)

    with pytest.raises(TaskError) as caught:
        ExportedModel.read(folder).require_tokens(encoder)

    assert caught.value.message == (
        f"{folder}: its largest token id is 256, its embedding has 256 rows"
    )
    assert caught.value.code == 2


def test_a_token_with_another_id_than_in_the_run_is_refused(tmp_path, encoder):
    folder = export(tmp_path / "export")
    content = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["!"], vocabulary['"'] = vocabulary['"'], vocabulary["!"]
    (folder / "tokenizer.json").write_text(json.dumps(content))

    with pytest.raises(TaskError, match="'!' has the id") as caught:
        ExportedModel.read(folder).require_tokens(encoder)
    assert caught.value.message.startswith(f"{folder}/tokenizer.json: ")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "meditron.json").unlink(), "no exported model"),
        (lambda folder: (folder / "config.json").write_text("{}"), "not the folder of an export"),
        (lambda folder: (folder / "config.json").write_text("["), "not the folder of an export"),
    ],
)
def test_what_no_export_wrote_is_refused(tmp_path, damage, message):
    folder = export(tmp_path / "export")
    damage(folder)

    with pytest.raises(TaskError, match=message):
        ExportedModel.read(folder)
