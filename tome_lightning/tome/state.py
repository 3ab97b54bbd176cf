"""What flows from block to block while tokens merge."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class TokenState(NamedTuple):
    """The tokens of a batch, and what each of them stands for.

    Nothing of this lives on a module: blocks take a state and return a state, so activation
    checkpointing, compilation and data parallelism see plain tensors.

    Attributes:
        x: Tokens, ``[B, N, C]``; prefix tokens (class, distillation, registers) come first.
        size: How many patches each token stands for, ``[B, N, 1]``, float32 (bfloat16 cannot count
            past 256). ``None`` while nothing has merged: every token is then one patch, and nothing
            needs multiplying. ``ToMeViT.forward_state`` always returns a tensor.
        source: For each of the N0 tokens that entered the first block, the index of the token it
            ended in, ``[B, N0]``, int64; ``None`` unless it is traced.
    """

    x: Tensor
    size: Tensor | None = None
    source: Tensor | None = None
