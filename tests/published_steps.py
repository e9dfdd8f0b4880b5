"""Published steps of training, to compare the plan's model of time with. docs/plan.md shows them.

GPT's MLP of width 4 h counts as a gated one of 8/3 h: equal parameters, floating-point operations
and activations. Biases and dropout are left out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from jobs.contract.stage_specs import ModelSpec, ParallelSpec
from meditron_cli.config.cluster_schema import Node
from meditron_cli.plan.hardware import machine_of
from meditron_cli.plan.layout import BatchLayout
from meditron_cli.plan.step_model import Engine, StepTime, Work, step_time

from .model_specs import model_spec

MEDITRON = "arXiv 2311.16079, section 4.1"
NARAYANAN = "arXiv 2104.04473, table 1; settings: Megatron-LM, examples/sc21/run_table_1.sh"
KORTHIKANTI = "arXiv 2205.05198, tables 3 and 5"
KORTHIKANTI_DATA = "arXiv 2205.05198, section 6.3"
BLOOM = "github.com/bigscience-workshop/bigscience, train/tr11-176B-ml: README.md, chronicles.md"
MT_NLG = "arXiv 2201.11990, section 2.4"
LLAMA_3 = "arXiv 2407.21783, table 4"
DGXC = "github.com/NVIDIA/dgxc-benchmarking"

MEGATRON_LLM = Engine(fused_kernels=False, fused_accumulation=True, overlaps_reduction=False)
"""MEDITRON's fork of Megatron-LM: FlashAttention-2, norms and gates of separate operations."""
MEGATRON_2021 = Engine(fused_attention=False, overlaps_reduction=False, splits_messages=True)
"""Megatron-LM before FlashAttention; gradients are reduced behind the last backward pass.
DeepSpeed's pipeline, which ran BLOOM and MT-NLG, is taken for the same."""
MEGATRON_2022 = replace(MEGATRON_2021, fused_accumulation=True)
"""With the products that add gradients to their sums, new in 2022."""
NEMO = Engine(
    fused_accumulation=True,
    overlaps_tensor=True,
    overlaps_pipeline=True,
    overlaps_gather=True,
    splits_messages=True,
)
"""NeMo on megatron.core, with every overlap that its recipes turn on."""

A100 = {
    "gpu_kind": "A100-SXM4-80GB", "gpu_memory_gb": 80, "peak_bf16_tflops": 312,
    "gpu_memory_gb_s": 2039, "gpu_link_gb_s": 300,
}  # fmt: skip
H100 = {
    "gpu_kind": "H100", "gpu_memory_gb": 80, "peak_bf16_tflops": 989,
    "gpu_memory_gb_s": 3350, "gpu_link_gb_s": 450,
}  # fmt: skip


def node(gpu: dict[str, object], network_gb_s: float) -> Node:
    return Node.model_validate(
        {"gpus": 8, "cpus": 64, "memory_gb": 1900, "network_gb_s": network_gb_s, **gpu}
    )


RCP = node(A100, 25)
"""One ConnectX-6 Dx, which has 200 Gb/s at most; the rate of the site is not published."""
SELENE = node(A100, 200)
"""NVIDIA's DGX A100: eight HDR adapters of 200 Gb/s."""
JEAN_ZAY = node(A100, 50)
"""Four Omni-Path links of 100 Gb/s."""
DGX_H100 = node(H100, 400)
"""Eight NDR adapters of 400 Gb/s."""


def gpt(layers: int, width: int, heads: int, **more: int) -> ModelSpec:
    """Return the shape of a GPT; 51,200 tokens and 2,048 positions unless given."""
    sizes = {"kv_heads": heads, "seq_length": 2048, "padded_vocab_size": 51200, **more}
    return model_spec(
        layers=layers,
        hidden_size=width,
        ffn_hidden_size=8 * width // 3,
        attention_heads=heads,
        vocab_size=sizes["padded_vocab_size"],
        tied_embeddings=True,
        **sizes,
    )


def llama(layers: int, width: int, ffn: int, heads: int, seq: int, rows: int) -> ModelSpec:
    """Return the shape of a Llama with eight key heads."""
    return model_spec(
        layers=layers,
        hidden_size=width,
        ffn_hidden_size=ffn,
        attention_heads=heads,
        kv_heads=8,
        seq_length=seq,
        vocab_size=rows,
        padded_vocab_size=rows,
    )


GPT_22B, GPT_175B = gpt(48, 6144, 64), gpt(96, 12288, 96)
GPT_530B, GPT_1T = gpt(105, 20480, 128), gpt(128, 25600, 160)
NEMOTRON_15B = gpt(32, 6144, 48, kv_heads=8, seq_length=4096, padded_vocab_size=256000)
NEMOTRON_340B = gpt(96, 18432, 96, kv_heads=8, seq_length=4096, padded_vocab_size=256000)
LLAMA_8B = llama(32, 4096, 14336, 32, 8192, 128256)
LLAMA_70B = llama(80, 8192, 28672, 64, 8192, 128256)
LLAMA_405B = llama(126, 16384, 53248, 128, 8192, 128256)


@dataclass(frozen=True)
class Row:
    """A published step."""

    name: str
    seconds: float
    source: str
    node: Node
    engine: Engine
    work: Work
    chosen: bool = False
    """Whether ``GEMM_SHARES`` was chosen on it; the others only validate."""

    @property
    def gpus(self) -> int:
        return self.work.parallel.world_size * self.work.context

    @property
    def computed(self) -> StepTime:
        machine = machine_of(self.node, self.gpus)
        assert machine
        return step_time(self.work, machine, self.engine)

    @property
    def error(self) -> float:
        """Return the computed over the published time, less 1."""
        return self.computed.seconds / self.seconds - 1


def work(
    model: ModelSpec, sizes: tuple[int, int, int], micro: int, batch: int, recompute: str,
    sharded: bool = True, split: bool = True, virtual: int = 1, **more: object,
) -> Work:  # fmt: skip
    """Return a step in a layout of ``sizes``: tensor, pipeline, data."""
    tensor, pipeline, data = sizes
    parallel = ParallelSpec(
        tensor, pipeline, data, split and tensor > 1, sharded, recompute, virtual
    )
    return Work(model, parallel, BatchLayout(micro, batch, data), **more)  # type: ignore[arg-type]


def flops_2021(model: ModelSpec, batch: int) -> float:
    """Return the operations of a step with full recomputation (arXiv 2104.04473, equation 3)."""
    s, layers, h = model.seq_length, model.layers, model.hidden_size
    rows = model.padded_vocab_size
    return 96 * batch * s * layers * h**2 * (1 + s / (6 * h) + rows / (16 * layers * h))


def narayanan(
    name: str, tflops: float, model: ModelSpec, sizes: tuple[int, int, int], micro: int, batch: int,
    virtual: int = 1,
) -> Row:  # fmt: skip
    """Return a row of table 1; its time follows from the operations a second of a GPU."""
    gpus = sizes[0] * sizes[1] * sizes[2]
    seconds = flops_2021(model, batch) / (gpus * tflops * 1e12)
    step = work(model, sizes, micro, batch, "full", False, False, virtual=virtual)
    engine = replace(MEGATRON_2021, overlaps_reduction=sizes[1] == 1)  # DDP=torch in the settings
    return Row(f"GPT {name}", seconds, NARAYANAN, SELENE, engine, step)


def korthikanti(
    name: str, seconds: tuple[float, float], model: ModelSpec, pipeline: int, micro: int,
    batch: int, virtual: int = 1, chosen: bool = False,
) -> list[Row]:  # fmt: skip
    """Return the two rows of a model in table 5: full recomputation, and sequence parallelism with
    selective recomputation.
    """
    sizes = (8, pipeline, 1)
    return [
        Row(
            f"GPT {name}, {recompute}", time, KORTHIKANTI, SELENE, MEGATRON_2022,
            work(model, sizes, micro, batch, recompute, False, split, virtual=virtual), chosen,
        )
        for time, recompute, split in zip(
            seconds, ("full", "selective"), (False, True), strict=True
        )
    ]  # fmt: skip


def nemo(name: str, seconds: float, page: str, step: Work, chosen: bool = False) -> Row:
    return Row(name, seconds, f"{DGXC}, {page}", DGX_H100, NEMO, step, chosen)


def mt_nlg(data: int, seconds: float) -> Row:
    step = work(GPT_530B, (8, 35, data), 1, 1920, "full", False, False)
    return Row(
        f"MT-NLG 530B, {280 * data} GPUs", seconds, MT_NLG, SELENE, MEGATRON_2021, step,
    )  # fmt: skip


def llama_3(data: int, tflops: float) -> Row:
    """Return a row of Llama 3 405B; 16 M tokens a step, 6 N operations a token, and pieces of one
    layer, since their number is not published.
    """
    step = work(LLAMA_405B, (8, 16, data), 1, 2048, "none", virtual=7, lighter_edges=True)
    gpus = 128 * data
    seconds = 6 * 405e9 * 2048 * 8192 / (gpus * tflops * 1e12)
    engine = Engine(overlaps_gather=True)
    return Row(f"Llama 3 405B, {gpus:,} GPUs", seconds, LLAMA_3, DGX_H100, engine, step)


ROWS = (
    Row(
        "MEDITRON-70B", 52.2, MEDITRON, RCP, MEGATRON_LLM,
        work(llama(80, 8192, 28672, 64, 4096, 32768), (8, 8, 2), 2, 512, "selective", False),
    ),
    narayanan("1.7B", 137, gpt(24, 2304, 24), (1, 1, 32), 16, 512),
    narayanan("3.6B", 138, gpt(30, 3072, 32), (2, 1, 32), 16, 512),
    narayanan("7.5B", 142, gpt(36, 4096, 32), (4, 1, 32), 16, 512),
    narayanan("18.4B", 135, gpt(40, 6144, 48), (8, 1, 32), 8, 1024),
    narayanan("39.1B", 138, gpt(48, 8192, 64), (8, 2, 32), 4, 1536),
    narayanan("76.1B", 140, gpt(60, 10240, 80), (8, 4, 32), 2, 1792, 3),
    narayanan("145.6B", 148, gpt(80, 12288, 96), (8, 8, 24), 2, 2304, 2),
    narayanan("310.1B", 155, gpt(96, 16384, 128), (8, 16, 15), 1, 2160, 2),
    narayanan("529.6B", 163, GPT_530B, (8, 35, 9), 1, 2520, 3),
    narayanan("1008B", 163, GPT_1T, (8, 64, 6), 1, 3072),
    *korthikanti("22B", (1.42, 1.10), GPT_22B, 1, 4, 4, chosen=True),
    *korthikanti("175B", (18.13, 13.75), GPT_175B, 8, 1, 64, 3, chosen=True),
    *korthikanti("530B", (49.05, 37.83), GPT_530B, 35, 1, 280, 3),
    *korthikanti("1T", (94.42, 71.49), GPT_1T, 64, 1, 512),
    Row(
        "GPT 530B, selective, 2,240 GPUs", 39.15, KORTHIKANTI_DATA, SELENE, MEGATRON_2022,
        work(GPT_530B, (8, 35, 8), 1, 2240, "selective", False, virtual=3),
    ),
    nemo(
        "GPT-3 175B", 8.309, "nemo_megatron/README_175b.md at 741c886",
        work(GPT_175B, (4, 8, 4), 1, 256, "none", virtual=6), chosen=True,
    ),
    nemo(
        "Nemotron-4 15B", 2.812, "nemotron/README_15b.md at 0b71cfd",
        work(NEMOTRON_15B, (4, 1, 4), 4, 64, "none"), chosen=True,
    ),
    nemo(
        "Nemotron-4 15B, 2,048 GPUs", 2.887, "nemotron/README_15b.md at 0b71cfd",
        work(NEMOTRON_15B, (4, 1, 512), 4, 8192, "none"),
    ),
    nemo(
        "Nemotron-4 340B", 4.61, "nemotron/README_340b.md at 8f5cbb3",
        work(NEMOTRON_340B, (8, 8, 2), 1, 32, "none", virtual=12),
    ),
    nemo(
        "Llama 3.1 8B", 12.78, "llama3.1/README_8b.md at 8f5cbb3",
        work(LLAMA_8B, (1, 1, 4), 1, 128, "none", context=2),
    ),
    nemo(
        "Llama 3.1 70B", 14.61, "llama3.1/README_70b.md at 8f5cbb3",
        work(LLAMA_70B, (4, 4, 2), 1, 128, "none", virtual=5, context=2),
    ),
    nemo(
        "Llama 3.1 405B", 17.50, "llama3.1/README_405b.md at 8f5cbb3",
        work(LLAMA_405B, (8, 9, 4), 1, 252, "none", virtual=7, context=2),
    ),
    llama_3(64, 430),
    llama_3(128, 400),
    Row(
        "BLOOM 176B", 105.22, BLOOM, JEAN_ZAY, MEGATRON_2021,
        work(
            gpt(70, 14336, 112, padded_vocab_size=250880), (4, 12, 8), 2, 2048, "full", True, False,
            lighter_edges=True,
        ),
    ),
    mt_nlg(8, 60.1),
    mt_nlg(10, 50.2),
    mt_nlg(12, 44.4),
)  # fmt: skip


def mean_error(rows: tuple[Row, ...]) -> float:
    """Return the mean absolute error of the computed times."""
    return sum(abs(row.error) for row in rows) / len(rows)


def table_lines() -> list[str]:
    """Return the table of docs/plan.md: published and computed steps."""
    lines = [
        "| training | GPUs | TP x PP x DP | micro-batch | published | computed | error | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in ROWS:
        layout, batch = row.work.parallel, row.work.batch
        sizes = f"{layout.tensor} x {layout.pipeline} x {layout.data}"
        sizes += f", CP {row.work.context}" if row.work.context > 1 else ""
        lines.append(
            f"| {row.name} | {row.node.gpu_kind[:4]} x {row.gpus:,} | {sizes} | {batch.micro} | "
            f"{row.seconds:.2f} s | {row.computed.seconds:.2f} s | {row.error:+.1%} | "
            f"{'chosen on' if row.chosen else ''} |"
        )
    return lines
