"""FSDP2 trains as DDP does, and its checkpoints are everyone's."""

import copy
import os
import pickle
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from jsonargparse import Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.strategies import FSDPStrategy

import checkpoints
import tome_lightning
from tome_lightning.checkpoint_io import AtomicCheckpointIO, CheckpointFileError
from tome_lightning.sharding import (
    FSDP2Strategy,
    ShardingError,
    check_strategy,
    consolidate,
    header_file,
)

from . import sharded_run
from .sharded_run import Toy, tiny

LAST = "epoch=1.ckpt"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two processes ran all that ``sharded_run`` has, once."""
    folder = tmp_path_factory.mktemp("sharded")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    root = Path(tome_lightning.__file__).parents[1]
    path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    common = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2"}
    common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0"}
    # -P: tests/ holds folders named as our packages are
    command = [sys.executable, "-P", sharded_run.__file__, str(folder)]
    runs = []
    try:
        for rank in "01":
            log = (folder / f"{rank}.log").open("w")
            environment = {**common, "LOCAL_RANK": rank}
            runs.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
        codes = [run.wait(timeout=200) for run in runs]
    finally:
        for run in runs:
            run.kill()
    assert codes == [0, 0], (folder / "0.log").read_text()[-3000:]
    return folder


@pytest.fixture(scope="module")
def seen(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "seen.pt", weights_only=True)


def load(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def assert_same(actual: dict[str, Any], expected: dict[str, Any], **tolerance: float) -> None:
    """Weights, moments and the optimizer's groups of two checkpoints."""
    torch.testing.assert_close(
        dict(actual["state_dict"]), dict(expected["state_dict"]), **tolerance
    )
    (a,), (b,) = actual["optimizer_states"], expected["optimizer_states"]
    torch.testing.assert_close(a["state"], b["state"], **tolerance)
    assert a["param_groups"] == b["param_groups"]


CONFIG = Namespace(class_path="tome_lightning.sharding.FSDP2Strategy")  # as the parser has it
EXACT = {"rtol": 0.0, "atol": 0.0}
# The norm that gradients are clipped by is summed up share by share: a rounding apart.
CLOSE = {"rtol": 1e-5, "atol": 1e-7}


# Two processes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sharded", "plain"), [("fsdp2", "ddp"), ("frozen", "frozen_ddp"), ("bfloat16", "bfloat16_ddp")]
)
def test_sharded_training_is_ddp(folder: Path, seen: dict[str, Any], sharded: str, plain: str):
    """Clipped, with layer-wise groups, drop path, frozen positions, accumulation, autocast."""
    assert set(seen[sharded]["kinds"].values()) == {"DTensor"}
    assert len(seen[sharded]["losses"]) == 6
    assert seen[sharded]["losses"] == pytest.approx(seen[plain]["losses"], abs=1e-6)
    assert seen[sharded]["metrics"] == pytest.approx(seen[plain]["metrics"], abs=1e-6)
    ours, theirs = load(folder / sharded / LAST), load(folder / plain / LAST)
    assert ours.keys() == theirs.keys()
    assert {type(value) for value in ours["state_dict"].values()} == {torch.Tensor}
    assert_same(ours, theirs, **CLOSE)


@pytest.mark.slow
def test_layer_wise_groups_survive_sharding(seen: dict[str, Any]):
    groups = seen["fsdp2"]["groups"]
    assert groups == seen["ddp"]["groups"]
    assert len({group["lr_scale"] for group in groups}) == 4  # stem, two blocks, head
    peak = 0.064 * 8 / 256
    assert all(g["initial_lr"] == pytest.approx(peak * g["lr_scale"]) for g in groups)


@pytest.mark.slow
@pytest.mark.parametrize("resumed", ["resumed", "fsdp2_to_ddp", "ddp_to_fsdp2", "from_shares"])
def test_a_run_goes_on_as_if_nothing_happened(folder: Path, seen: dict[str, Any], resumed: str):
    """Under the strategy that saved it, another one, or from a folder of shares."""
    # A fused AdamW rounds an element by its place in memory, which differs between a share and a whole.
    tolerance = CLOSE if resumed in ("ddp_to_fsdp2", "fsdp2_to_ddp") else EXACT
    assert len(seen[resumed]["losses"]) == 3
    assert seen[resumed]["losses"] == pytest.approx(seen["fsdp2"]["losses"][3:], abs=1e-6)
    assert_same(load(folder / resumed / LAST), load(folder / "fsdp2" / LAST), **tolerance)


@pytest.mark.slow
def test_one_process_goes_on_from_two(folder: Path, tmp_path: Path):
    """It sees the same samples at each step; drop path leaves out others, so without."""
    model = {"vit": sharded_run.VIT | {"drop_path_rate": 0.0}}
    trainer, seen = sharded_run.train(
        tmp_path, "auto", folder / "dense_paths" / "epoch=0.ckpt", model
    )
    assert len(seen["losses"]) == 3
    assert trainer.global_step == 6
    # gradients are averages of two halves there
    assert_same(load(tmp_path / LAST), load(folder / "dense_paths" / LAST), rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_the_file_loads_into_a_stock_vit(folder: Path, seen: dict[str, Any]):
    file = folder / "fsdp2" / LAST
    vit = timm.models.VisionTransformer(
        img_size=16, patch_size=4, num_classes=4, global_pool="avg",
        embed_dim=16, depth=2, num_heads=2,
    )  # fmt: skip
    checkpoints.load(vit, file)
    prefix = "model.vit."
    weights = {
        name.removeprefix(prefix): value
        for name, value in load(file)["state_dict"].items()
        if name.startswith(prefix)
    }
    assert not set(vit.state_dict()) ^ set(weights)
    vit.load_state_dict(weights, strict=True)
    module = tiny()
    module.load_state_dict(load(file)["state_dict"])
    module.model.r = 0
    x = torch.cat([batch[0][:, 0] for batch in _validation()])
    torch.testing.assert_close(vit.eval()(x), module.eval()(x))
    module.model.r = 4
    # of the first process: every other sample
    scores = module(x).softmax(dim=-1)[::2]
    torch.testing.assert_close(seen["predicted"], scores.detach(), rtol=1e-5, atol=1e-6)
    hits = module(x).argmax(dim=1) == torch.arange(24) % 4
    assert seen["tested"]["test/samples"] == 24
    assert seen["tested"]["test/top1"] == pytest.approx(hits.double().mean().item())
    assert seen["started"] == seen["tested"]


def _validation() -> Any:
    data = Toy()
    data.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    return data.val_dataloader()


@pytest.mark.slow
def test_averaged_weights_are_refused_when_a_run_starts(seen: dict[str, Any]):
    assert "EMAWeightAveraging" in seen["refused"]
    assert "averaged" not in seen


@pytest.mark.slow
def test_shares_consolidate_to_the_one_file(folder: Path, tmp_path: Path):
    shares = folder / "shares" / LAST
    assert shares.is_dir()
    sizes = [file.stat().st_size for file in shares.glob("share-*")]
    assert len(sizes) == 2
    whole = (folder / "fsdp2" / LAST).stat().st_size
    assert max(sizes) < 0.8 * whole
    consolidate(shares, tmp_path / "one.ckpt")
    one, expected = load(tmp_path / "one.ckpt"), load(folder / "fsdp2" / LAST)
    assert one.keys() == expected.keys()
    assert_same(one, expected, **EXACT)
    assert not [path for path in (folder / "shares").iterdir() if path.name.startswith(".")]


@pytest.mark.slow
def test_recomputing_blocks_changes_nothing(folder: Path, seen: dict[str, Any]):
    assert seen["recomputed"]["losses"] == seen["fsdp2"]["losses"]
    assert_same(load(folder / "recomputed" / LAST), load(folder / "fsdp2" / LAST), **EXACT)
    # once more for each training step; validation recomputes nothing
    assert seen["recomputed"]["runs"] - seen["fsdp2"]["runs"] == sharded_run.BLOCK_RUNS


# One process


def _count(runs: list[int], i: int, *_: Any) -> None:
    runs[i] += 1


def test_recomputed_gradients_are_the_same_with_drop_path():
    x = torch.randn(4, 3, 16, 16)
    gradients, runs = [], []
    for checkpointing in (False, True):
        module, count = tiny(grad_checkpointing=checkpointing).train(), [0, 0]
        for i, block in enumerate(module.vit.blocks):
            block.mlp.register_forward_pre_hook(partial(_count, count, i))
        torch.manual_seed(3)
        module(x).square().sum().backward()
        gradients.append([p.grad for p in module.vit.parameters()])
        runs.append(count)
    assert runs == [[1, 1], [2, 2]]
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_an_unsharded_model_copies_and_pickles():
    model = tiny().model
    x = torch.randn(2, 3, 16, 16)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin.eval()(x), model.eval()(x))


@pytest.mark.parametrize(
    "strategy",
    ["fsdp", "fsdp_cpu_offload", FSDPStrategy(), Namespace(class_path="lightning.FSDPStrategy")],
)
def test_fsdp1_is_refused_in_one_line(strategy: Any):
    with pytest.raises(
        ShardingError, match=r"FSDP1.*layer-wise.*--trainer\.strategy fsdp2"
    ) as told:
        check_strategy(strategy, "cpu")
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("strategy", ["fsdp2", "fsdp2_sharded", FSDP2Strategy(), CONFIG])
def test_what_cannot_be_sharded_is_refused(strategy: Any):
    for precision in (None, 32, "32-true", "bf16", "bf16-mixed"):
        check_strategy(strategy, "cpu", precision, [])
    with pytest.raises(ShardingError, match=r"16-mixed.*bf16-mixed"):
        check_strategy(strategy, "gpu", "16-mixed")
    with pytest.raises(ShardingError, match=r"EMAWeightAveraging.*--trainer\.strategy ddp"):
        check_strategy(strategy, "cpu", callbacks=[EMAWeightAveraging()])


@pytest.mark.parametrize("strategy", ["auto", "ddp", "ddp_spawn"])
def test_what_does_not_shard_is_left_alone(strategy: str):
    check_strategy(strategy, "cpu", "16-mixed", [EMAWeightAveraging()])


def write_shares(folder: Path, ranks: list[int], world: int) -> None:
    for rank in ranks:
        rows = torch.full((2 - rank, 3), float(rank))
        path = folder / f"share-{rank}-of-{world}.ckpt"
        AtomicCheckpointIO().save_checkpoint({"1": rows}, path)
    AtomicCheckpointIO().save_checkpoint({"epoch": 7, "weight": None}, folder / "rest.ckpt")


def test_uneven_shares_are_put_together(tmp_path: Path):
    write_shares(tmp_path / "shares", [0, 1], 2)
    consolidate(tmp_path / "shares", tmp_path / "one.ckpt")
    one = load(tmp_path / "one.ckpt")
    assert one["epoch"] == 7
    assert AtomicCheckpointIO().load_checkpoint(header_file(tmp_path / "shares"))["epoch"] == 7
    assert header_file(tmp_path / "one.ckpt") == tmp_path / "one.ckpt"
    assert one["weight"].tolist() == [[0.0] * 3, [0.0] * 3, [1.0] * 3]


@pytest.mark.parametrize("ranks", [[0], [1], []])
def test_a_missing_share_is_told(tmp_path: Path, ranks: list[int]):
    write_shares(tmp_path / "shares", ranks, 2)
    with pytest.raises(ShardingError, match="no whole sharded checkpoint"):
        consolidate(tmp_path / "shares", tmp_path / "one.ckpt")
    assert not (tmp_path / "one.ckpt").exists()


class Payload:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("ran"),)


@pytest.mark.parametrize("name", ["rest.ckpt", "share-1-of-2.ckpt"])
def test_a_malicious_share_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.chdir(tmp_path)
    write_shares(tmp_path / "shares", [0, 1], 2)
    torch.save({"1": Payload()}, tmp_path / "shares" / name)
    with pytest.raises(CheckpointFileError, match="nothing of it was run"):
        consolidate(tmp_path / "shares", tmp_path / "one.ckpt")
    assert not (tmp_path / "ran").exists()
