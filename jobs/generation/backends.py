"""The table of backends."""

from __future__ import annotations

from pathlib import Path

from jobs.generation.backend import VLLM, Alive, Backend


def load(name: str, folder: Path, *, device: str, tensor: int, alive: Alive) -> Backend:
    """Return a backend with the model of an exported folder.

    Args:
        name: ``transformers`` or ``vllm``.
        folder: with ``config.json``, safetensors and ``tokenizer.json``.
        device: ``cuda`` or ``cpu``.
        tensor: GPUs; vLLM alone uses more than one.
        alive: see ``Alive``.

    Raises:
        TaskError: the program is not installed, or does not read the folder.
    """
    if name == VLLM:
        from jobs.generation.vllm_backend import VllmBackend

        return VllmBackend(folder, tensor=tensor, alive=alive)
    from jobs.generation.transformers_backend import TransformersBackend

    return TransformersBackend(folder, device=device, alive=alive)
