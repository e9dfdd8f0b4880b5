"""Folders of Hugging Face models whose weights are zeros and take no space on disk."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

from jobs.conversion import hf_config, weight_map
from meditron_cli.config.experiment_schema import Experiment
from meditron_cli.plan import spec_parts


def write_tensors(path: Path, shapes: Mapping[str, tuple[int, ...]], dtype: str) -> int:
    """Write a file of safetensors of 16 bits without blocks but of its header; return the bytes of
    its values.
    """
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return end


def write_base_model(folder: Path, experiment: Experiment) -> Path:
    """Write the base model of an experiment, in one file, as transformers does."""
    spec, base = spec_parts.model_spec(experiment), spec_parts.vocabulary_spec(experiment).base_rows
    folder.mkdir(parents=True)
    shapes = weight_map.folder_shapes(spec, base)
    write_tensors(folder / "model.safetensors", shapes, "BF16")
    (folder / "config.json").write_text(json.dumps(hf_config.write(spec, base, "bfloat16")))
    return folder
