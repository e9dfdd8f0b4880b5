"""The error of the client."""

from __future__ import annotations


class MlflowException(Exception):
    pass
