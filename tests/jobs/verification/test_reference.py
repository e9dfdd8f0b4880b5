"""The forward pass in plain torch computes what transformers computes."""

from __future__ import annotations

import pytest

from jobs.verification.reference import Reference

from ..conversion.models import MODELS, transformers_model


@pytest.mark.parametrize("kind", MODELS)
def test_logits_are_those_of_transformers(kind: str) -> None:
    import torch

    spec = MODELS[kind]
    model = transformers_model(spec).eval()
    weights, done = model.state_dict(), []
    texts = [torch.arange(60) * 7 % spec.vocab_size, torch.tensor([3])]

    found = list(Reference(spec, weights.__getitem__).logits(texts, done.append))

    for text, scores in zip(texts, found, strict=True):
        with torch.inference_mode():
            expected = model(text.unsqueeze(0)).logits[0]
        assert float(expected.std()) > 0.3
        assert float((scores - expected).abs().max()) < 1e-5 * float(expected.abs().max())
    assert done == list(range(1, spec.layers + 1))


def test_one_layer_is_in_memory_at_a_time() -> None:
    """A tensor is read when its layer is computed, and read anew for the next call."""
    import torch

    spec = MODELS["Llama 2"]
    weights, read = transformers_model(spec).state_dict(), []

    def remember(name: str) -> torch.Tensor:
        read.append(name)
        return weights[name]

    list(Reference(spec, remember).logits([torch.tensor([1, 2])]))

    layers = [name.split(".")[2] for name in read if ".layers." in name]
    assert layers == sorted(layers)
    assert len(read) == len(set(read)) == len(weights)
