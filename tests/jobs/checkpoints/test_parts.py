"""Parts in memory, as files and as tensors."""

from __future__ import annotations

import io

import numpy as np
import torch

from jobs.checkpoints.parts import Content


def content_of(data: bytes) -> Content:
    content = Content(len(data))
    content.array[:] = np.frombuffer(data, np.uint8)
    return content


def test_content_is_read_like_a_file():
    content = content_of(b"abcdef")

    assert (content.read(0), content.read(2), content.tell()) == (b"", b"ab", 2)
    assert (content.seek(-1, io.SEEK_END), content.read(9), content.read(1)) == (5, b"f", b"")
    assert (content.seek(-2, io.SEEK_CUR), content.read()) == (4, b"ef")
    assert (content.seek(99), content.read(1)) == (99, b"")
    assert content_of(b"").read() == b""


def test_a_tensor_is_used_where_it_lies_whatever_its_strides():
    whole = torch.arange(48.0).reshape(6, 8).bfloat16()
    for value in (whole, whole.t()[1:], whole[2:4, 3], torch.tensor(7), torch.empty(0, 3)):
        stream = io.BytesIO()
        torch.save(value, stream)
        content = content_of(stream.getvalue())

        found = content.tensor()

        assert torch.equal(found, value)
        assert (found.dtype, found.stride()) == (value.dtype, value.stride())
        content.array[:] = 0
        assert not found.any()
