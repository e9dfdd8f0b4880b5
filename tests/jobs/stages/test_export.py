"""Weights that were only converted, exported again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from jobs.contract.stage_specs import ExportSpec, VerifySpec
from jobs.conversion import base_model

from ..conversion.models import ADDED, MODELS, convert_spec, grown, save_folder, write_tokenizer


@pytest.fixture
def bench(forked: Any) -> Any:
    return forked


SPEC = MODELS["Llama 2"]
CARD = "---\nlanguage: en\nlicense: llama2\ntags: [a]\n---\n# Base\n"


def test_converted_weights_are_exported_bit_for_bit_in_their_type(
    bench: Any, tmp_path: Path
) -> None:
    folder = save_folder(tmp_path / "model", SPEC, "float16")
    (folder / "README.md").write_text(CARD)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mistral", "sliding_window": None}
    for name in ("attention_bias", "mlp_bias"):
        config.pop(name, None)
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = write_tokenizer(tmp_path / "run.json", SPEC.vocab_size, ADDED)
    convert = convert_spec(folder, SPEC, tokenizer)
    bench.task("convert", convert, cpus=2)
    export = ExportSpec(
        checkpoint="first",
        target_step=4,
        checkpoint_dir="checkpoints",
        model=grown(SPEC),
        tokenizer=convert.tokenizer,
        special_tokens_in_text=False,
        dtype="source",
        shard_bytes=1 << 15,
        license="",
        languages=(),
        output_dir="export-first",
        verify=VerifySpec(enabled=False, tokens=16),
    )
    bench.task("export", export)

    results = [bench.start(stage) for stage in ("convert", "export")]

    assert [(result.returncode, result.stderr) for result in results] == [(0, ""), (0, "")]
    ours: dict[str, torch.Tensor] = {}
    for file in bench.run.path("export-first").glob("*.safetensors"):
        ours |= load_file(file)
    theirs = {
        name: value
        for file in folder.glob("*.safetensors")
        for name, value in load_file(file).items()
    }
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert ours[name].dtype == value.dtype == torch.float16
        assert torch.equal(ours[name][: len(value)], value), name
    assert len(ours["lm_head.weight"]) == SPEC.vocab_size + len(ADDED)
    written = json.loads(bench.run.path("export-first/config.json").read_text())
    assert written["architectures"] == ["MistralForCausalLM"]
    assert (written["sliding_window"], written["dtype"]) == (None, "float16")
    header = yaml.safe_load(bench.run.path("export-first/README.md").read_text().split("---")[1])
    assert (header["license"], header["base_model"]) == ("llama2", "org/base")
    assert str(tmp_path) not in bench.run.path("export-first/README.md").read_text()
    assert str(tmp_path) not in bench.run.path("export-first/meditron.json").read_text()


@pytest.mark.parametrize(
    ("text", "license"),
    [
        (CARD, "llama2"),
        ('---\nlicense: "cc-by-4.0"\n---\n', "cc-by-4.0"),
        ("# Base\nlicense: mit\n", ""),
        ("---\nlanguage: en\n---\nlicense: mit\n", ""),
        (None, ""),
    ],
)
def test_a_licence_is_that_of_the_header_of_a_card(
    tmp_path: Path, text: str | None, license: str
) -> None:
    if text is not None:
        (tmp_path / "README.md").write_text(text)

    assert base_model.stated_license(tmp_path) == license
