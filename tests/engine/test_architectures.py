"""The engine computes what transformers computes, in every layout."""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.engine

BEGIN = """
import dataclasses, json, os, sys
import torch
from jobs.contract.stage_specs import ParallelSpec
from jobs.engine import device
from tests.engine import parity
given = json.load(sys.stdin)
rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
place = device.start("cpu", rank, world, 0)
from jobs.engine import model
layout = ParallelSpec(**given["layout"])
model.start_parallel(layout, 0)

def build(name, **changes):
    family, spec = parity.MODELS[name]
    spec = dataclasses.replace(spec, **changes)
    return spec, parity.reference(family, spec, seed=5)
"""

COMPARE_LOGITS = (
    BEGIN
    + """
results = {}
tokens = torch.randint(0, parity.VOCABULARY, (2, 60), generator=torch.Generator().manual_seed(1))
for name in parity.MODELS:
    spec, theirs = build(name)
    network = model.build(spec, layout, "fp32", place, for_inference=True)
    parity.copy_weights(network, spec, layout, theirs)
    with torch.inference_mode():
        expected = theirs(tokens).logits
    places = [(1, 3), (0, 59), (1, 3), (0, 0)]
    rows, columns = zip(*places)
    difference = max(
        (model.logits(network, tokens) - expected).abs().max(),
        (model.logits_at(network, tokens, places) - expected[rows, columns]).abs().max(),
    )
    prompts = [tokens[0, :5].tolist(), tokens[1, :9].tolist()]
    stop = {int(tokens[0, 0])}
    new = model.greedy(network, prompts, 12, ())
    generated = [
        theirs.generate(
            torch.tensor([prompt]), max_new_tokens=12, do_sample=False,
            attention_mask=torch.ones(1, len(prompt)),
        )[0, len(prompt) :].tolist()
        for prompt in prompts
    ]
    end = new[1][3]
    stopped = model.greedy(network, prompts, 12, {end})
    cut = [row[: row.index(end) + 1] if end in row else row for row in new]
    results[name] = {
        "difference": float(difference), "scale": float(expected.std()),
        "same_continuations": new == generated, "stops": stopped == cut,
        "same_frequencies": torch.equal(
            network.rotary_pos_emb.inv_freq, theirs.model.rotary_emb.inv_freq
        ),
    }
print(json.dumps(results))
device.end()
"""
)


def layout(tensor: int = 1, pipeline: int = 1) -> dict:
    return {
        "tensor": tensor,
        "pipeline": pipeline,
        "data": 1,
        "sequence_parallel": tensor > 1,
        "distributed_optimizer": True,
        "recompute": "none",
    }


@pytest.mark.parametrize("tensor", [1, 2, pytest.param(4, marks=pytest.mark.full)])
def test_logits_and_greedy_continuations_are_those_of_transformers(tmp_path, fork_server, tensor):
    given = json.dumps({"layout": layout(tensor)})

    texts = fork_server.run_ranks(COMPARE_LOGITS, tmp_path, tensor, given)

    for text in texts:
        results = json.loads(text.splitlines()[-1])
        assert results
        for name, result in results.items():
            assert result["difference"] < 1e-4, (name, result)
            assert result["scale"] > 0.3, (name, result)
            assert result["same_continuations"], name
            assert result["stops"], name
            assert result["same_frequencies"], name


COMPARE_OUTPUT = (
    BEGIN
    + """
tokens = torch.randint(0, parity.VOCABULARY, (2, 60), generator=torch.Generator().manual_seed(1))
places = [(row, column) for row in range(2) for column in range(60)]
results = {}
for name in parity.MODELS:
    spec, theirs = build(name)
    network = model.build(spec, layout, "bf16", place, for_inference=True)
    parity.copy_weights(network.module, spec, layout, theirs)
    scores = model.logits_at(network, tokens, places)
    rounded = model.logits(network, tokens).flatten(0, 1)
    results[name] = {
        "difference": float((scores - rounded).abs().max()),
        "scale": float(rounded.std()),
        "step": float((scores - scores.bfloat16().float()).abs().max()),
        "values": [len(scores[:, :50].unique()), len(rounded[:, :50].unique())],
    }
print(json.dumps(results))
device.end()
"""
)


@pytest.mark.parametrize("tensor", [1, 2])
def test_scores_of_answers_are_finer_than_the_weights(tmp_path, fork_server, tensor):
    """A difference of less than bfloat16 can express decides between answers."""
    given = json.dumps({"layout": layout(tensor)})

    texts = fork_server.run_ranks(COMPARE_OUTPUT, tmp_path, tensor, given)

    results = json.loads(texts[0].splitlines()[-1])
    assert results
    for name, result in results.items():
        assert result["difference"] < 0.02 * result["scale"] + 0.02, (name, result)
        assert result["step"] > 1e-4, (name, result)
        assert result["values"][0] > 3 * result["values"][1], (name, result)


LOAD_AGAIN = """
import torch
from transformers import AutoModelForCausalLM
from tests.engine import parity
family, spec = parity.MODELS["llama 2"]
saved = parity.reference(family, spec, seed=5)
saved.save_pretrained("hf")
loaded = AutoModelForCausalLM.from_pretrained("hf")
tokens = torch.arange(20)[None]
with torch.inference_mode():
    print(torch.allclose(loaded(tokens).logits, saved(tokens).logits, atol=1e-4))
"""


def test_transformers_loads_what_it_saved_beside_stand_ins_for_cuda(tmp_path, fork_server):
    assert fork_server.run(LOAD_AGAIN, tmp_path).splitlines()[-1] == "True"


COMPARE_FREQUENCIES = """
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from jobs.contract.stage_specs import RopeScaling
from jobs.engine import rope

for head_dim, factor in (128, 8.0), (64, 32.0), (128, 1.0):
    config = LlamaConfig(
        hidden_size=8 * head_dim,
        num_attention_heads=8,
        max_position_embeddings=131072,
        rope_parameters={
            "rope_type": "llama3", "rope_theta": 500000.0, "factor": factor,
            "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
    )
    theirs = LlamaRotaryEmbedding(config).inv_freq
    ours = rope.inverse_frequencies(head_dim, 500000.0, RopeScaling(factor, 1.0, 4.0, 8192))
    plain = rope.inverse_frequencies(head_dim, 500000.0, None)
    print(torch.equal(ours, theirs), int((ours == plain).sum()), int((ours < plain).sum()))
"""


def test_frequencies_of_llama_3_are_those_of_transformers_to_the_last_bit(tmp_path, fork_server):
    printed = fork_server.run(COMPARE_FREQUENCIES, tmp_path)

    assert printed.splitlines() == ["True 29 35", "True 15 17", "True 64 0"]


COMPARE_GRADIENTS = (
    BEGIN
    + """
from jobs.engine import optim
from megatron.core.pipeline_parallel import get_forward_backward_func
from tests.engine.conftest import SPEC

generator = torch.Generator().manual_seed(1)
tokens = torch.randint(0, parity.VOCABULARY, (2, 2, 65), generator=generator)

def forward(batches, network):
    batch = next(batches)
    positions = torch.arange(64).unsqueeze(0).expand(2, -1)
    output = network(batch[:, :-1], positions, None, labels=batch[:, 1:])
    return output, lambda loss: (loss.mean(), loss.detach().mean())

def run(name, rows, fused=False):
    spec, theirs = build(name, padded_vocab_size=rows)
    theirs.zero_grad()
    scores = theirs(tokens[:, :, :-1].flatten(0, 1)).logits
    expected = torch.nn.functional.cross_entropy(
        scores.flatten(0, 1), tokens[:, :, 1:].flatten()
    )
    expected.backward()
    network = model.build(spec, layout, "fp32", place)
    network.config.cross_entropy_loss_fusion = fused
    parity.copy_weights(network, spec, layout, theirs)
    training = dataclasses.replace(SPEC, model=spec, parallel=layout)
    updater = optim.prepare([network], training)
    options = {
        "forward_step_func": forward, "model": updater.wrapped, "num_microbatches": 2,
        "seq_length": 64, "micro_batch_size": 2,
    }
    losses = get_forward_backward_func()(
        data_iterator=iter(tokens), forward_only=False, **options
    )
    with torch.no_grad():
        validation = get_forward_backward_func()(
            data_iterator=iter(tokens), forward_only=True, **options
        )
    theirs_gradients = {key: value.grad for key, value in theirs.named_parameters()}
    wanted = parity.local_tensors(network, spec, layout, theirs_gradients, padding=0.0)
    first = rank % layout.tensor * rows // layout.tensor
    real = max(0, spec.vocab_size - first)
    off, scale, padding = 0.0, 0.0, 0.0
    for key, parameter in network.named_parameters():
        off = max(off, float((parameter.main_grad - wanted[key]).abs().max()))
        scale = max(scale, float(wanted[key].abs().max()))
        if "embedding" in key or "output_layer" in key:
            padding = max(padding, float(parameter.main_grad[real:].abs().sum()))
    return {
        "name": name, "rows": rows, "fused": fused,
        "losses": [float(sum(part) / 2) for part in (losses, validation) if part],
        "expected": float(expected), "off": off, "scale": scale, "padding": padding,
    }

results = [run(name, 128) for name in parity.MODELS]
results += [run(name, rows) for name in ("llama 2", "qwen 3") for rows in (100, 200, 512)]
results += [run("llama 2", rows, fused=True) for rows in (100, 512)]
print(json.dumps(results))
device.end()
"""
)


@pytest.mark.parametrize(
    ("tensor", "pipeline"),
    [
        (1, 1),
        (2, 1),
        (1, 2),
        pytest.param(2, 2, marks=pytest.mark.full),
        pytest.param(4, 2, marks=pytest.mark.full),
    ],
)
def test_losses_and_gradients_are_those_of_transformers_whatever_the_padding(
    tmp_path, fork_server, tensor, pipeline
):
    """With 200 rows and more the second tensor-parallel rank has padding alone."""
    given = json.dumps({"layout": layout(tensor, pipeline)})

    texts = fork_server.run_ranks(COMPARE_GRADIENTS, tmp_path, tensor * pipeline, given)

    results = [json.loads(text.splitlines()[-1]) for text in texts]
    for result in [one for rank in results for one in rank]:
        for loss in result["losses"]:
            assert loss == pytest.approx(result["expected"], abs=2e-6), result
        precision = 1e-2 if result["fused"] else 1e-5
        assert result["off"] < precision * max(1, result["scale"]), result
        assert result["padding"] == 0, result
    assert all(result["losses"] for result in results[-1])
