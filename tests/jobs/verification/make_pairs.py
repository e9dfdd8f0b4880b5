"""Write every model of ``parity`` as a folder of transformers and as a checkpoint of the engine.

``python make_pairs.py FOLDER``. Each has its weights in step 0; ``grown`` has other weights in
step 4; ``narrow`` is stored in bfloat16, its checkpoint in float32.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path

import torch

from jobs.checkpoints import manifest
from jobs.engine import device
from tests.byte_tokenizer import SIZE, write_byte_tokenizer
from tests.engine import parity
from tests.engine.conftest import SPEC
from tests.jobs.verification.pairs import KINDS, LETTER_A, Kind, spec_of, tokenizer_of


def main(folder: Path) -> None:
    os.environ["RANK"] = "0"
    place = device.start("cpu", 0, 1, 0)
    from jobs.engine import layerwise, model, optim, sharded_state
    from jobs.engine.saving import saver

    model.start_parallel(layerwise.ALONE, seed=7)
    for name, kind in KINDS.items():
        root = folder / name
        root.mkdir()
        write_byte_tokenizer(root / "tokenizer.json", kind.added)
        spec, tokenizer = spec_of(name), tokenizer_of(folder, name)
        base = dataclasses.replace(spec, vocab_size=SIZE + kind.unused)
        theirs = parity.reference(kind.family, base, seed=5)
        theirs.to(getattr(torch, kind.dtype)).save_pretrained(root / "hf")
        network = model.build(spec, layerwise.ALONE, "fp32", place)
        training = dataclasses.replace(SPEC, model=spec, parallel=layerwise.ALONE)
        trained = sharded_state.TrainingState(
            [network], optim.prepare([network], training).optimizer
        )
        parity.copy_weights(network, base, layerwise.ALONE, theirs.float())
        with torch.no_grad():
            for key, weight in network.named_parameters():
                if key.endswith(("word_embeddings.weight", "output_layer.weight")):
                    weight[SIZE : SIZE + len(kind.added)] = new_row(weight[:SIZE], kind)
        for step in (0, 4) if name == "grown" else (0,):
            record = manifest.CheckpointRecord(
                iteration=step,
                consumed_samples=step,
                layout=dataclasses.asdict(layerwise.ALONE),
                precision="fp32",
                kind=manifest.TRAINING,
                **manifest.identity(spec, tokenizer),
                origin={"weights": "org/base"},
                data={},
                bytes=0,
            )
            if step:
                with torch.no_grad():
                    for weight in network.parameters():
                        weight.add_(torch.randn_like(weight) * 0.01)
            saver.save(root / "checkpoints", trained, record, keep=9)
    device.end()


def new_row(base: torch.Tensor, kind: Kind) -> torch.Tensor:
    rows = {"mean": base.mean(0), "copy:A": base[LETTER_A], "repeat-last-row": base[-1]}
    return rows[kind.stored_rows or kind.new_rows or "repeat-last-row"]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
