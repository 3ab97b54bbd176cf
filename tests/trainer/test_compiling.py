"""A compiled model: one graph for each r, known beforehand, and the gradients of the plain one."""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch._dynamo.exc import FailOnRecompileLimitHit
from torch._dynamo.testing import CompileCounter

from tome_lightning.callbacks import ToMeCallback
from tome_lightning.finetune import FineTune
from tome_lightning.tome import RSchedule, patch
from tome_lightning.trainer.compiling import (
    OneShape,
    allow_graphs,
    compile_model,
    equal_parts,
)
from tome_lightning.trainer.lightning_internals import DYNAMO

from ..test_callbacks import Noise
from ..test_finetune import tiny
from ..tome.tiny import images, tiny_vit

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    limits = DYNAMO.recompile_limit, DYNAMO.accumulated_recompile_limit
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()
    DYNAMO.recompile_limit, DYNAMO.accumulated_recompile_limit = limits


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> CompileCounter:
    """Counts graphs, and runs them as they are."""
    counter = CompileCounter()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=counter))
    return counter


def shallow(**changes: Any) -> FineTune:
    """Tracing takes a second a graph and block."""
    return tiny(3, compile=True, vit={"depth": 1}, **changes)


def fit(folder: Path, module: FineTune, callback: ToMeCallback, epochs: int = 1) -> None:
    trainer = Trainer(
        default_root_dir=folder, accelerator="cpu", logger=False, max_epochs=epochs,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
        callbacks=[callback],
    )  # fmt: skip
    trainer.fit(module, datamodule=Noise())


@pytest.mark.parametrize(
    ("schedule", "graphs"),
    [
        (RSchedule("ramp", start=0.25, full=0.75, plateaus=2, stop=0.9), 4),  # r 0, 2, 4; 0 is one
        (RSchedule("random", choices=(1, 50, 60)), 4),  # the last two are clamped alike
    ],
    ids=["ramp", "random"],
)
def test_a_run_makes_as_many_graphs_as_it_says_and_more_than_torch_allows_by_default(
    tmp_path: Path, counter: CompileCounter, schedule: RSchedule, graphs: int
) -> None:
    DYNAMO.recompile_limit = 1
    module, callback = shallow(), ToMeCallback(schedule)
    assert callback.graphs(module.model, "fit") == graphs
    fit(tmp_path, module, callback, epochs=4)
    assert counter.frame_count == graphs
    assert DYNAMO.recompile_limit == graphs + 1


def test_the_dense_model_it_is_compared_with_is_one_graph_more(
    tmp_path: Path, counter: CompileCounter
) -> None:
    module, callback = shallow(), ToMeCallback(compare_dense=1)
    fit(tmp_path, module, callback)
    assert counter.frame_count == callback.graphs(module.model, "fit") == 3


def test_too_many_graphs_are_an_error_and_never_silently_uncompiled(
    counter: CompileCounter,
) -> None:
    DYNAMO.recompile_limit = 1
    model = patch(tiny_vit(depth=1), r=1)
    compile_model(model)
    allow_graphs(1)
    for r in (1, 2):
        model.r = r
        model(images())
    model.r = 3
    with pytest.raises(FailOnRecompileLimitHit):
        model(images())


def test_a_compiled_run_learns_what_the_plain_one_learns(
    tmp_path: Path, counter: CompileCounter
) -> None:
    weights = []
    for compile in (False, True):
        torch.manual_seed(0)
        module = tiny(3, compile=compile, vit={"depth": 2, "drop_path_rate": 0.2})
        callback = ToMeCallback()
        fit(tmp_path, module, callback)
        weights.append(module.vit.state_dict())
    assert counter.frame_count == callback.graphs(module.model, "fit") == 2
    assert weights[0].keys() == weights[1].keys()  # stock timm's
    assert all(torch.equal(a, b) for a, b in zip(*(w.values() for w in weights), strict=True))


def test_a_smaller_last_batch_makes_no_graph(counter: CompileCounter) -> None:
    model, run = patch(tiny_vit(depth=1), r=3), OneShape()
    compile_model(model)
    for batch in (4, 4, 1, 4, 3):  # the first decides
        x = images(batch=batch)
        assert torch.equal(run(model, x), model.forward(x))
    assert counter.frame_count == 1


def test_the_hooks_of_a_model_that_is_not_compiled_run_for_every_batch() -> None:
    model, run, seen = patch(tiny_vit(depth=1), r=3), OneShape(), []
    model.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    for batch in (4, 1, 3):
        run(model, images(batch=batch))
    assert seen == [4, 1, 3]


@pytest.mark.parametrize("r", [[3, 2], {"r": 3, "inflection": -1.0}, {"keep": 0.8}])
def test_every_form_of_r_compiles(counter: CompileCounter, r: Any) -> None:
    model = patch(tiny_vit(depth=2), r=r)
    compile_model(model)
    assert any(model.plan())
    assert torch.equal(model(images()), model.forward(images()))
    assert counter.frame_count == 1


@pytest.mark.parametrize(
    ("samples", "at_most", "sizes"),
    [
        (30, 8, [6] * 5),
        (30, 16, [15, 15]),
        (15, 8, [5] * 3),
        (10, 8, [5, 5]),
        (8, 8, [8]),
        (7, 4, [4, 3]),
        (1, 8, [1]),
    ],
)
def test_views_are_split_into_few_parts_of_one_size(
    samples: int, at_most: int, sizes: list[int]
) -> None:
    assert [len(part) for part in equal_parts(torch.zeros(samples), at_most)] == sizes


def test_compiling_twice_is_compiling_once(counter: CompileCounter) -> None:
    model = patch(tiny_vit(), r=3)
    compile_model(model)
    compiled = model._compiled_call_impl
    compile_model(model)
    assert model._compiled_call_impl is compiled


def gradients(run: Any, model: torch.nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    model.zero_grad()
    x = x.clone().requires_grad_()
    run(x).double().square().sum().backward()
    return [x.grad, *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize(
    ("checkpointing", "prop_attn"),
    [
        (True, True),
        pytest.param(False, True, marks=pytest.mark.slow),
        pytest.param(False, False, marks=pytest.mark.slow),
    ],
)
def test_compiled_gradients_are_those_of_float64(checkpointing: bool, prop_attn: bool) -> None:
    model = patch(tiny_vit(depth=2, init_values=1.0), r=3, prop_attn=prop_attn).train()
    x = images()
    expected = gradients(model.double(), model, x.double())
    model.float().set_grad_checkpointing(checkpointing)
    run = torch.compile(model.forward, backend="aot_eager", fullgraph=True, dynamic=False)
    for ours, exact in zip(gradients(run, model, x), expected, strict=True):
        # float32 sums over 17 tokens and 16 channels
        torch.testing.assert_close(ours.double(), exact, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
def test_under_autocast_compiled_gradients_are_the_plain_ones(checkpointing: bool) -> None:
    model = patch(tiny_vit(depth=2), r=3, prop_attn=True).train()
    model.set_grad_checkpointing(checkpointing)
    compiled = torch.compile(model.forward, backend="aot_eager", fullgraph=True, dynamic=False)
    with torch.autocast("cpu", torch.bfloat16):
        plain, ours = (gradients(run, model, images()) for run in (model.forward, compiled))
    assert all(torch.equal(a, b) for a, b in zip(ours, plain, strict=True))


@pytest.mark.slow
def test_torchs_own_compiler_gives_the_same_to_rounding() -> None:
    model = patch(tiny_vit(depth=2), r=3, prop_attn=True).train()
    plain = gradients(model, model, images())
    compile_model(model)
    for ours, expected in zip(gradients(model, model, images()), plain, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
