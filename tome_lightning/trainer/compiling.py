"""torch.compile on a model whose token counts change: few graphs, all of them known beforehand.

r and the tokens of each block are constants of a graph: a fixed r is one graph in training and one in
evaluation, and each further r of a schedule is one more.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from tome_lightning.tome.plan import R
from tome_lightning.trainer.lightning_internals import DYNAMO, is_compiled

# It warns of operations in place within a recomputed block, which it has turned into plain ones by then.
logging.getLogger("torch._higher_order_ops.wrap").addFilter(
    lambda record: "context_fn is passed" not in str(record.msg)
)


def compile_model(model: nn.Module) -> None:
    """Compile a model in place: whole, without graph breaks, each shape a graph of its own.

    Its state dict keeps its keys. With ``fullgraph`` torch raises ``FailOnRecompileLimitHit`` where
    it would otherwise run uncompiled past its limit of graphs; see ``allow_graphs``.
    """
    if not is_compiled(model):
        model.compile(fullgraph=True, dynamic=False)


def allow_graphs(count: int) -> None:
    """Let torch make that many graphs more of one function than it has been allowed so far.

    Torch counts the graphs of all models of a class together and stops at 8 by default, fewer than
    some schedules have.
    """
    DYNAMO.recompile_limit += count
    DYNAMO.accumulated_recompile_limit += count


def count_graphs(trained: Iterable[R]) -> int:
    """Graphs of a run at most: one for each r that is trained at, and one of evaluation.

    Of each r, not of each plan: torch looks at the value, also where two are clamped to the same.
    """
    return len({repr(r) for r in trained}) + 1


def equal_parts(x: Tensor, at_most: int) -> tuple[Tensor, ...]:
    """Split a batch into few parts of at most so many, of one size where twice as many allow it."""
    fewest = -(-len(x) // at_most)
    even = (parts for parts in range(fewest, 2 * fewest + 1) if len(x) % parts == 0)
    return x.split(-(-len(x) // next(even, fewest)))


class OneShape:
    """Calls a compiled model on batches of the first size it sees, and uncompiled on all others.

    The last batch of an evaluation is smaller, and a graph for it would take longer than it saves.
    Only a compiled model is gone round: what is not compiled is called, with the hooks that a strategy
    of the user's own may have put around it.
    """

    def __init__(self) -> None:
        self.samples: int | None = None

    def __call__(self, model: nn.Module, x: Tensor, **kwargs: Any) -> Tensor:
        if self.samples is None:
            self.samples = len(x)
        run = model.forward if is_compiled(model) and len(x) != self.samples else model
        out: Tensor = run(x, **kwargs)
        return out
