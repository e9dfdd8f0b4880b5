"""Build the model and the parallel groups of a layout from a spec.

Call order in training and evaluation::

    with devices.session(context, spec.device) as device:
        model.start_parallel(spec.parallel, spec.seed)
        network = model.build(spec.model, spec.parallel, spec.precision, device, for_inference=True)
        checkpoint.load_weights(path, network)
        scores = model.logits_at(network, tokens, [(0, 7)])

``jobs.engine.device.session`` must begin before this module is imported, since it imports
megatron.core.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection, Sequence
from typing import Any, cast

import torch

from jobs.contract.stage_specs import ModelSpec, ParallelSpec
from jobs.engine import device as devices
from jobs.engine import layers, rope
from jobs.engine.switches.overlap import overlap

with devices.quiet():
    from megatron.core import parallel_state, tensor_parallel
    from megatron.core.extensions.transformer_engine import HAVE_TE
    from megatron.core.models.gpt import GPTModel
    from megatron.core.transformer.module import Float16Module
    from megatron.core.transformer.transformer_config import TransformerConfig
    from megatron.core.utils import get_attr_wrapped_model


class Decoder(GPTModel):  # type: ignore[misc]
    """megatron.core's decoder, with a loss that no padding row of the vocabulary takes part in, and
    rotary positions that may differ between rows.
    """

    scored_tokens: int
    """Rows of the vocabulary before padding."""

    def _preprocess(
        self, input_ids: torch.Tensor, position_ids: torch.Tensor | None, **more: Any
    ) -> Any:
        """Return megatron.core's inputs of the layers, with rotary angles of given positions.

        megatron.core 0.16.1 numbers all rows from 0, whatever ``position_ids`` are.

        Args:
            position_ids: int64 ``[batch, sequence]``; None for 0, 1, 2, … in each row.
        """
        hidden, angles, *others = super()._preprocess(input_ids, position_ids, **more)
        if position_ids is not None:
            angles = angles[position_ids.t(), 0]  # [sequence, 1, 1, dim]: [sequence, batch, 1, dim]
        return hidden, angles, *others

    def compute_language_model_loss(
        self, labels: torch.Tensor, logits: torch.Tensor
    ) -> torch.Tensor:
        """Return the cross entropy ``[batch, sequence]`` over the rows before padding.

        The other columns of this rank become minus infinity, in place, so that the softmax gives
        them exactly 0, and with it their rows a gradient of exactly 0. A rank may hold nothing
        else: the maximum that the ranks subtract is a real one, since they share it.

        Args:
            logits: ``[sequence, batch, padded rows / tensor]``; nothing needs them for a backward
                pass, so that the change is not recorded.
        """
        columns = logits.size(-1)
        before = parallel_state.get_tensor_model_parallel_rank() * columns
        real = min(max(self.scored_tokens - before, 0), columns)
        logits.detach()[..., real:] = -torch.inf
        loss: torch.Tensor = super().compute_language_model_loss(labels, logits)
        return loss


def start_parallel(parallel: ParallelSpec, seed: int) -> None:
    """Create the process groups of the layout and seed the generators of this rank.

    Ranks count tensor first, then data, then pipeline, so that tensor groups stay in a node.

    Raises:
        RuntimeError: the number of ranks does not match the layout.
    """
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=parallel.tensor,
        pipeline_model_parallel_size=parallel.pipeline,
        virtual_pipeline_model_parallel_size=_virtual(parallel),
        # Groups of gloo beside the main ones are not used, and on several GPU nodes gloo may choose
        # a network interface that does not reach the other nodes.
        create_gloo_process_groups=False,
        distributed_timeout_minutes=int(devices.COLLECTIVE_TIMEOUT.total_seconds() // 60),
    )
    copies = parallel_state.get_data_parallel_world_size()
    if copies != parallel.data:
        raise RuntimeError(
            f"the layout has {parallel.data} data-parallel copies, the ranks make {copies}"
        )
    # The seed depends on the stage, or equal layers of two stages would start with equal weights.
    stage_seed = seed + 100 * parallel_state.get_pipeline_model_parallel_rank()
    torch.manual_seed(stage_seed)
    tensor_parallel.model_parallel_cuda_manual_seed(stage_seed)


def end_parallel() -> None:
    """Destroy the process groups of the layout, so that this process may create others."""
    parallel_state.destroy_model_parallel()


def build(
    spec: ModelSpec,
    parallel: ParallelSpec,
    precision: str,
    device: torch.device,
    *,
    for_inference: bool = False,
) -> torch.nn.Module:
    """Return this rank's part of a model whose pipeline has one piece per stage, as ``pieces``.

    For training it is the bare stage of the pipeline, in train mode. ``for_inference`` returns a
    model in eval mode without gradients for ``logits``: pipeline must be 1, sequence parallelism is
    off in every layout (any sequence length fits), nothing is recomputed.

    Raises:
        ValueError: megatron.core refuses the layout, inference has a pipeline, or a stage has
            several pieces.
    """
    if for_inference and parallel.pipeline != 1:
        raise ValueError(f"inference runs with pipeline 1, not {parallel.pipeline}")
    with devices.quiet():
        config = transformer_config(spec, parallel, precision, device, for_inference=for_inference)
    if parallel.virtual != 1:
        raise ValueError(f"a stage has {parallel.virtual} pieces, not 1")
    network = _piece(spec, config, device, None)
    return network.eval().requires_grad_(False) if for_inference else network


def pieces(
    spec: ModelSpec,
    parallel: ParallelSpec,
    precision: str,
    device: torch.device,
    *,
    positions_differ: bool = False,
    deterministic: bool = False,
) -> list[torch.nn.Module]:
    """Return the pieces of this rank's pipeline stage for training, with random weights, in the
    order in which a micro-batch passes them; one but in the interleaved schedule.

    Args:
        precision: ``bf16`` (parameters in bfloat16) or ``fp32``.
        positions_differ: rows are given positions, which the fused kernel of RoPE cannot read.
        deterministic: no kernel whose sums have no fixed order; the switches of the process come
            before (``jobs.engine.switches.determinism``).

    Raises:
        ValueError: megatron.core refuses the layout.
    """
    with devices.quiet():
        config = transformer_config(spec, parallel, precision, device, for_inference=False)
    config.apply_rope_fusion &= not positions_differ
    if deterministic:
        config.deterministic_mode = True
        config.cross_entropy_loss_fusion = False  # as Megatron-LM requires
    if parallel.virtual == 1:
        return [_piece(spec, config, device, None)]
    return [_piece(spec, config, device, number) for number in range(parallel.virtual)]


def _virtual(parallel: ParallelSpec) -> int | None:
    """Return the pieces of a stage as megatron.core has them: None for one."""
    return parallel.virtual if parallel.virtual > 1 else None


def _piece(
    spec: ModelSpec, config: TransformerConfig, device: torch.device, number: int | None
) -> torch.nn.Module:
    """Return a piece of this rank's stage; ``number`` is None where the stage is one piece."""
    place = {"ignore_virtual": False, "vp_stage": number}
    network: Any = Decoder(
        config=config,
        transformer_layer_spec=layers.block_spec(spec, config, device, number),
        vocab_size=spec.padded_vocab_size,
        max_sequence_length=spec.seq_length,
        pre_process=parallel_state.is_pipeline_first_stage(**place),
        post_process=parallel_state.is_pipeline_last_stage(**place),
        share_embeddings_and_output_weights=spec.tied_embeddings,
        position_embedding_type="rope",
        rotary_base=spec.rope_theta,
        vp_stage=number,
    )
    network.scored_tokens = spec.vocab_size
    # megatron.core 0.16.1 has fixed factors for the scaling of Llama 3.
    network.rotary_pos_emb.inv_freq = rope.inverse_frequencies(
        spec.head_dim, spec.rope_theta, spec.rope_scaling
    )
    for parameter in network.parameters():
        tensor_parallel.set_defaults_if_not_set_tensor_model_parallel_attributes(parameter)
    network = network.to(device)
    model: torch.nn.Module = Float16Module(config, network) if config.bf16 else network
    return model


def logits(network: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """Return scores of the next token at every position, without padding rows of the vocabulary.

    Every rank of a tensor-parallel group calls it with the same tokens and gets the same scores.

    Args:
        network: the result of ``build(…, for_inference=True)``.
        tokens: int64 ``[batch, sequence]`` on the model's device, padded on the right where texts
            differ in length; attention is causal, so padding changes nothing to its left.

    Returns:
        float32 ``[batch, sequence, vocab_size]``; row ``i`` scores token ``i + 1``.
    """
    with torch.inference_mode():
        scores: torch.Tensor = network(tokens, None, None, runtime_gather_output=True)
    return scores[..., : cast(int, get_attr_wrapped_model(network, "scored_tokens"))].float()


def logits_at(
    network: torch.nn.Module, tokens: torch.Tensor, places: Sequence[tuple[int, int]]
) -> torch.Tensor:
    """Return scores of the next token at some positions, from an output layer in float32: in
    bfloat16, which has 8 bits, the best of several answers are often equal.

    Scores of other positions are never computed: of long rows and a large vocabulary they would
    take more memory than the weights.

    Args:
        network: as for ``logits``.
        tokens: as for ``logits``.
        places: row and column of each position.

    Returns:
        float32 ``[positions, vocab_size]``.
    """
    rows, columns = zip(*places, strict=True)

    def select(
        module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], named: dict[str, Any]
    ) -> tuple[tuple[torch.Tensor, ...], dict[str, Any]]:
        hidden = inputs[0]  # [sequence, batch, hidden_size]
        weight = named.get("weight")  # of the embedding, where the two are tied
        weight = cast(torch.Tensor, module.weight) if weight is None else weight
        chosen = hidden[list(columns), list(rows)].unsqueeze(1)
        return (chosen.float(),), {**named, "weight": weight.float()}

    output_layer = cast(torch.nn.Module, get_attr_wrapped_model(network, "output_layer"))
    hook = output_layer.register_forward_pre_hook(select, with_kwargs=True)
    try:
        return logits(network, tokens)[0]
    finally:
        hook.remove()


def greedy(
    network: torch.nn.Module,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    stop: Collection[int],
) -> list[list[int]]:
    """Return the most likely continuation of each prompt, token by token.

    Every step computes all positions again, which suits a few short texts. Every rank of a
    tensor-parallel group calls it with the same prompts and gets the same tokens.

    Args:
        network: the result of ``build(…, for_inference=True)``.
        prompts: token ids, at least one each.
        stop: tokens that end a continuation, of which they are the last.
    """
    device = next(network.parameters()).device
    texts = [list(prompt) for prompt in prompts]
    growing = list(range(len(texts)))
    for _ in range(max_new_tokens):
        if not growing:
            break
        rows = [torch.tensor(texts[index]) for index in growing]
        tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(device)
        ends = [(row, len(texts[index]) - 1) for row, index in enumerate(growing)]
        best = logits_at(network, tokens, ends).argmax(-1).tolist()
        for index, token in zip(growing, best, strict=True):
            texts[index].append(token)
        growing = [index for index in growing if texts[index][-1] not in stop]
    return [text[len(prompt) :] for text, prompt in zip(texts, prompts, strict=True)]


def transformer_config(
    spec: ModelSpec,
    parallel: ParallelSpec,
    precision: str,
    device: torch.device,
    *,
    for_inference: bool,
) -> TransformerConfig:
    """Return megatron.core's configuration of Llama layers (Touvron et al., arXiv 2307.09288, 2.2).

    Biases of query, key and value are those of Qwen 2 (arXiv 2407.10671, 2.2.1), norms of query and
    key heads those of Qwen 3 (arXiv 2505.09388, 2). ``jobs.engine.layers`` places the norms.

    Raises:
        ValueError: megatron.core refuses the combination.
    """
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    return TransformerConfig(
        num_layers=spec.layers,
        hidden_size=spec.hidden_size,
        ffn_hidden_size=spec.ffn_hidden_size,
        num_attention_heads=spec.attention_heads,
        num_query_groups=spec.kv_heads,
        kv_channels=spec.head_dim,
        normalization="RMSNorm",
        layernorm_epsilon=spec.norm_eps,
        gated_linear_unit=True,
        activation_func=torch.nn.functional.silu,
        add_bias_linear=False,
        add_qkv_bias=spec.qkv_bias,
        qk_layernorm=spec.qk_norm,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        rotary_interleaved=False,
        init_method_std=spec.init_std,
        tensor_model_parallel_size=parallel.tensor,
        pipeline_model_parallel_size=parallel.pipeline,
        virtual_pipeline_model_parallel_size=_virtual(parallel),
        overlap_p2p_comm=overlap(parallel).stages,
        batch_p2p_comm=not overlap(parallel).stages,
        sequence_parallel=parallel.sequence_parallel and parallel.tensor > 1 and not for_inference,
        bf16=precision == "bf16",
        params_dtype=dtype,
        pipeline_dtype=dtype,
        **({} if for_inference else _recompute(parallel.recompute)),
        **_fusions(device, precision),
    )


def _recompute(kind: str) -> dict[str, Any]:
    """Return options to recompute attention or every layer (Korthikanti et al., 2205.05198)."""
    if kind == "selective":
        return {"recompute_granularity": "selective"}
    if kind == "full":
        return {
            "recompute_granularity": "full",
            "recompute_method": "uniform",
            "recompute_num_layers": 1,
        }
    return {}


def _fusions(device: torch.device, precision: str) -> dict[str, Any]:
    """Return options for fused kernels; all need CUDA, some also need a package.

    The fused cross entropy returns gradients in bfloat16, also of float32 logits.
    """
    if devices.is_cpu(device):
        return {}
    return {
        "bias_activation_fusion": True,
        "bias_dropout_fusion": True,
        "cross_entropy_loss_fusion": precision == "bf16",
        "apply_rope_fusion": HAVE_TE,
        "gradient_accumulation_fusion": _imports("fused_weight_gradient_mlp_cuda"),
    }


def _imports(name: str) -> bool:
    """Return whether a compiled package loads; it may be installed for another CUDA or torch."""
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True
