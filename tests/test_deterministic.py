"""The deterministic mode: the same numbers from the same run, merging included."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import tome_lightning
from tome_lightning.tome.block import merging_block
from tome_lightning.tome.matching import bipartite_soft_matching
from tome_lightning.tome.merge import merge_tokens, output_index, restore_order, unmerge
from tome_lightning.tome.state import TokenState

ROOT = Path(tome_lightning.__file__).parents[1]

# Sizes at which torch shares work out among its threads. Many tokens are alike, so that many merge
# into one: the sums that can come in any order.
RUN = """
import sys, warnings
import torch
from lightning.pytorch import LightningDataModule, Trainer, seed_everything
from torch.utils.data import DataLoader, TensorDataset
from tome_lightning import FineTune, Image, SingleLabel, ToMeCallback

accelerator, precision = sys.argv[1:]
warnings.simplefilter("ignore")

class Data(LightningDataModule):
    num_classes, class_names, batch_size = 4, list("abcd"), 16

    def train_dataloader(self):
        x = torch.randn(48, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        x[:, :, 8:, :] = x[:, :, 8:9, 8:9]
        return DataLoader(TensorDataset(x, torch.arange(48) % 4, torch.arange(48)), batch_size=16)

def run():
    seed_everything(3)
    module = FineTune(
        Image(32, 4), SingleLabel(4, mixup=0.8),
        vit={"embed_dim": 64, "depth": 3, "num_heads": 4, "drop_path_rate": 0.2, "global_pool": "avg"},
        r=16, prop_attn=True, lr=0.01, warmup_epochs=0, grad_checkpointing=True,
    )
    trainer = Trainer(
        deterministic=True, accelerator=accelerator, devices=1, precision=precision, max_epochs=1,
        logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[ToMeCallback()],
    )
    trainer.fit(module, datamodule=Data())
    return module.vit.state_dict()

assert torch.utils.deterministic.fill_uninitialized_memory
a, b = run(), run()
assert all(value.isfinite().all() for value in a.values())
different = [name for name in a if not torch.equal(a[name], b[name])]
print(torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), different)
"""


def run_twice(accelerator: str, precision: str, threads: int) -> list[str]:
    """Threads, whether the mode was on, and the weights that differ between two equal runs."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    result = subprocess.run(
        [sys.executable, "-c", RUN, accelerator, precision],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": str(threads)},
        capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()[-1].split(maxsplit=2)


@pytest.mark.slow
def test_two_runs_with_threads_end_in_the_same_weights() -> None:
    assert run_twice("cpu", "32-true", threads=2) == ["2", "True", "[]"]


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_two_runs_on_a_gpu_end_in_the_same_weights(precision: str) -> None:
    assert run_twice("gpu", precision, threads=2)[1:] == ["True", "[]"]


@pytest.fixture
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def gradients(device: str) -> list[Tensor]:
    """Of a merge in which a hundred tokens meet in one, of a block, and of what undoes them."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 201, 32, generator=generator).to(device).requires_grad_()
    size = torch.randint(1, 5, (4, 201, 1), generator=generator).to(device, torch.float32)
    source = torch.arange(201, device=device).expand(4, -1)
    alike = x.detach().clone()
    alike[:, 4:] = alike[:, 4:5]
    matching = bipartite_soft_matching(alike, r=100, num_prefix=1)
    state = merge_tokens(TokenState(x, size, source), matching)
    assert state.source is not None
    back = restore_order(state.x, state.source) + unmerge(state.x, matching)
    weights = torch.randn(back.shape, generator=generator).to(device)
    found = [*state[:2], back, *torch.autograd.grad((back * weights).sum(), x)]

    from timm.models.vision_transformer import Block

    torch.manual_seed(0)
    block = Block(32, num_heads=4, qkv_bias=True).to(device)
    state = merging_block(block, TokenState(x, size, None), r=50, num_prefix=1, prop_attn=True)
    loss = (state.x * weights[:, : state.x.shape[1]]).sum()
    return [*found, *torch.autograd.grad(loss, [x, *block.parameters()])]


@pytest.mark.usefixtures("deterministic")
def test_every_merging_operation_has_a_deterministic_form() -> None:
    """None raises in the mode, nor does one read memory that nobody has written (NaN in the mode)."""
    assert torch.utils.deterministic.fill_uninitialized_memory
    first = gradients("cpu")
    assert all(value.isfinite().all() for value in first)
    assert all(map(torch.equal, first, gradients("cpu")))


def test_the_mode_changes_no_result(deterministic: Any) -> None:
    """On CPU the same sums in the same order; only unwritten memory would differ."""
    within = gradients("cpu")
    torch.use_deterministic_algorithms(False)
    assert all(map(torch.equal, within, gradients("cpu")))


@pytest.mark.gpu
def test_every_merging_operation_repeats_itself_on_a_gpu() -> None:
    script = (
        "import torch; from tests.test_deterministic import gradients\n"
        "torch.use_deterministic_algorithms(True)\n"
        "first = gradients('cuda')\n"
        "for _ in range(5): assert all(map(torch.equal, first, gradients('cuda')))\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT), "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    subprocess.run([sys.executable, "-c", script], check=True, timeout=200, env=env, cwd=ROOT)


@pytest.mark.usefixtures("deterministic")
def test_no_index_is_written_twice() -> None:
    """Where a plain scatter writes, order could matter only if two writes met."""
    matching = bipartite_soft_matching(torch.randn(3, 50, 8), r=24, num_prefix=1)
    places = torch.cat([matching.keep, matching.src], dim=1).sort(dim=1).values
    assert torch.equal(places, torch.arange(50).expand(3, -1))
    index = output_index(matching)
    assert index.min() == 0
    assert index.max() < 26  # the mode fills new memory with the largest number


@pytest.mark.usefixtures("deterministic")
def test_ties_are_merged_in_the_order_of_positions() -> None:
    """An unstable sort may break them otherwise each time."""
    first, again = (bipartite_soft_matching(torch.ones(2, 400, 8), 100, 0) for _ in range(2))
    assert torch.equal(first.src, torch.arange(0, 200, 2).expand(2, -1))
    assert all(map(torch.equal, first, again))
