"""`deterministic: true`: a CUDA run that gives the same bits each time, resumed or not.

Some kernels add in the order in which their threads happen to finish, so two runs differ in the
last bits. torch has fixed-order forms of most of them, cuBLAS needs a workspace of its own per
stream for that, and flash-attn a flag. What has no such form raises in torch: it is told by name.
https://docs.pytorch.org/docs/stable/notes/randomness.html
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ft.runtime import MachineError, Problem

_ENVIRONMENT = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", "FLASH_ATTENTION_DETERMINISTIC": "1"}
"""Read by cuBLAS as it starts, and by transformers as it calls flash-attn."""

_NO_SUCH_FORM = re.compile(r"^(?P<op>.+?) does not have a deterministic implementation")


@contextmanager
def computing_deterministically(is_asked_for: bool) -> Iterator[None]:
    """While entered, CUDA computes the same bits each time; enter it before CUDA starts.

    A CPU does so anyhow, and is left alone.

    Raises:
        MachineError: an operation of the block has no deterministic form; says which.
    """
    if not is_asked_for or not torch.cuda.is_available():
        yield
        return
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with deterministic_algorithms():
        yield


@contextmanager
def deterministic_algorithms() -> Iterator[None]:
    """Torch's own switches, put back when the block ends.

    Raises:
        MachineError: an operation of the block has no deterministic form; says which.
    """
    memory: Any = torch.utils.deterministic
    was_on = torch.are_deterministic_algorithms_enabled()
    was_filling = memory.fill_uninitialized_memory
    was_searching = torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    memory.fill_uninitialized_memory = False  # a debugging aid, and slow
    torch.backends.cudnn.benchmark = False
    try:
        yield
    except RuntimeError as error:
        if match := _NO_SUCH_FORM.match(str(error)):
            raise MachineError(_without_such_form(match["op"])) from error
        raise
    finally:
        torch.use_deterministic_algorithms(was_on)
        memory.fill_uninitialized_memory = was_filling
        torch.backends.cudnn.benchmark = was_searching


def _without_such_form(operation: str) -> Problem:
    return Problem(
        f"deterministic: true, but {operation} has no deterministic form on this device",
        fix="remove deterministic: a resumed run then differs from an uninterrupted one as two "
        "uninterrupted ones do from each other",
    )
