"""Activation checkpointing of a block: it is recomputed, but what it chose in the forward pass is kept.

A recomputed block has other last digits where another kernel runs, e.g. in a compiled backward pass; then
two similarities that nearly tie change places, and gradients belong to other tokens than the loss.
"""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from tome_lightning.tome.attention import chosen_kernels
from tome_lightning.tome.block import merging_block
from tome_lightning.tome.matching import Matching
from tome_lightning.tome.state import TokenState

# The operations of ``bipartite_soft_matching`` that choose; all else follows from their indices.
CHOICE = [torch.ops.aten.max.dim, torch.ops.aten.sort.stable, torch.ops.aten.sort.default]


def recomputed_block(
    block: Any, state: TokenState, r: int, num_prefix: int, prop_attn: bool
) -> TokenState:
    """``merging_block``, recomputed in the backward pass with the matching of the forward pass.

    Of each block the matching is kept beside its input: some 8 bytes a token.
    """
    args = (block, state, r, num_prefix, prop_attn)
    if torch.compiler.is_compiling():  # where the compiler decides what is kept: it is told
        keep = partial(create_selective_checkpoint_contexts, CHOICE)
        return checkpoint(merging_block, *args, use_reentrant=False, context_fn=keep)
    kept: list[Matching] = []
    same = partial(_contexts, state.x.device)
    return checkpoint(merging_block, *args, kept, use_reentrant=False, context_fn=same)


def _contexts(device: torch.device) -> tuple[AbstractContextManager[Any], _ChosenAgain]:
    return contextlib.nullcontext(), _ChosenAgain(device)


class _ChosenAgain(AbstractContextManager[None]):
    """``chosen_kernels`` of the moment it is entered: by then the model has left its own.

    A backward pass that is run twice enters it twice, which ``chosen_kernels`` does not take.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def __enter__(self) -> None:
        self.chosen = chosen_kernels(self.device)
        self.chosen.__enter__()

    def __exit__(self, *raised: Any) -> None:
        self.chosen.__exit__(*raised)
