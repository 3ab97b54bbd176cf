"""``best.ckpt``, the k best, and a user's own `ModelCheckpoint` beside them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from tome_lightning.__main__ import main
from tome_lightning.arguments import UsageError
from tome_lightning.run.best import (
    BestCheckpoint,
    TopCheckpoints,
    best_checkpoints,
    check_states,
    keep_apart,
)
from tome_lightning.trainer.saving import SaveLast, SavingError

from ..test_cli import TINY

MODEL_CHECKPOINT = "--trainer.callbacks+=lightning.pytorch.callbacks.ModelCheckpoint"
EARLY_STOPPING = "--trainer.callbacks+=lightning.pytorch.callbacks.EarlyStopping"
FIT = [
    "fit", "--recipe=quickstart", *TINY, "--tome.compare_dense=0", "--run_dir=R", "--resume=auto",
    "--trainer.limit_train_batches=1", "--trainer.max_steps=-1", "--save.top_k=2",
]  # fmt: skip


def mine(monitor: str, mode: str) -> list[str]:
    """A user's ModelCheckpoint that keeps the three best of a metric."""
    options = {"monitor": monitor, "mode": mode, "save_top_k": 3}
    return [MODEL_CHECKPOINT, *(f"--trainer.callbacks.{k}={v}" for k, v in options.items())]


def state(saved: dict[str, Any], name: str, monitor: str) -> dict[str, Any]:
    (found,) = (v for k, v in saved["callbacks"].items() if k.startswith(name) and monitor in k)
    return dict(found)


def kept(saved: dict[str, Any], name: str, monitor: str) -> list[str]:
    return sorted(Path(path).name for path in state(saved, name, monitor)["best_k_models"])


def test_a_run_keeps_the_best_by_its_metric_beside_what_a_user_keeps_and_goes_on_with_both(
    tmp_path, monkeypatch, capfd, caplog
):
    """One story: a run, what it says at its end, and the same with three epochs more."""
    monkeypatch.chdir(tmp_path)
    caplog.set_level("INFO")
    by_loss, stop = (
        mine("val/loss", "max"),
        [EARLY_STOPPING, "--trainer.callbacks.monitor=val/loss"],
    )
    words = [*FIT, *mine("val/top1", "max"), *by_loss, *stop, "--trainer.callbacks.patience=9"]
    scores: dict[str, float] = {}
    for epochs in (1, 4):
        assert main([*words, f"--trainer.max_epochs={epochs}"]) == 0, capfd.readouterr().err
        saved = torch.load("R/checkpoints/last.ckpt", weights_only=True)
        for name, monitor in (("TopC", "top1"), ("ModelC", "top1"), ("ModelC", "loss")):
            models = state(saved, name, monitor)["best_k_models"]
            scores |= {Path(path).name: float(score) for path, score in models.items()}
            assert len(models) == min(epochs, 2 if name == "TopC" else 3)
            assert all(Path(path).is_file() for path in models)
        assert torch.isfinite(state(saved, "EarlyStopping", "loss")["best_score"])
        summary = json.loads(Path("R/summary.json").read_text())
        assert Path(summary["checkpoint"]).name == "best.ckpt"
        assert "test --ckpt_path R/checkpoints/best.ckpt" in caplog.text
    names = {path.name for path in Path("R/checkpoints").iterdir()}
    assert names == {"best.ckpt", "last.ckpt", *kept(saved, "TopC", "top1"),
        *kept(saved, "ModelC", "top1"), *kept(saved, "ModelC", "loss")}  # fmt: skip
    top = kept(saved, "TopC", "top1")
    for name in top:
        assert f"-top1={scores[name]:.4f}.ckpt" in name
    best = state(saved, "BestCheckpoint", "top1")["best_model_score"]
    assert float(best) == max(scores[name] for name in top)
    assert summary["metrics"]["top1"] == pytest.approx(float(best), abs=1e-6)


def test_two_callbacks_of_one_state_are_a_mistake_told_in_one_line(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert main([*FIT, *mine("val/top1", "max"), *mine("val/top1", "max")]) == 2
    err = capfd.readouterr().err
    assert "error: trainer.callbacks has two ModelCheckpoint" in err
    assert "Traceback" not in err
    assert not Path("R").exists()


@pytest.mark.parametrize(
    "make",
    [
        lambda: EarlyStopping("val/loss"),
        lambda: ModelCheckpoint(monitor="val/top1", mode="max"),
        SaveLast,
    ],
)
def test_states_that_a_checkpoint_would_mix_up_are_refused(make: Callable[[], Callback]):
    check_states([make(), Callback(), Callback()])
    with pytest.raises(UsageError, match=f"two {type(make()).__name__} that"):
        check_states([make(), Callback(), make()])


def test_ours_and_a_users_of_the_same_metric_have_states_of_their_own(tmp_path):
    users = ModelCheckpoint(monitor="val/top1", mode="max")
    check_states([users, *best_checkpoints(tmp_path, "top1", 3)])


def test_a_users_files_lie_beside_ours_and_never_over_them(tmp_path):
    own, elsewhere = tmp_path / "checkpoints", tmp_path / "mine"
    free, last = (
        ModelCheckpoint(),
        ModelCheckpoint(own, save_last=True, enable_version_counter=False),
    )
    apart = ModelCheckpoint(elsewhere, "best", save_last=True)
    keep_apart([free, Callback(), last, apart], own)
    assert free.dirpath == str(own)
    assert (apart.dirpath, apart.CHECKPOINT_NAME_LAST) == (str(elsewhere), "last")
    assert last.format_checkpoint_name({}, last.CHECKPOINT_NAME_LAST) == str(own / "last-v1.ckpt")
    for name in ("best", "last"):
        with pytest.raises(UsageError, match=f"writes {name}.ckpt, which is the run's own"):
            keep_apart([ModelCheckpoint(own, name, monitor="val/loss")], own)
        with pytest.raises(UsageError, match=f"another filename, such as {name}-mine"):
            keep_apart([ModelCheckpoint(filename=name)], own)


def test_a_users_folder_is_the_same_however_it_is_spelled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    free = ModelCheckpoint()
    keep_apart([free], Path("R/checkpoints"))  # Lightning forgets the scores of another spelling
    assert free.dirpath == str(tmp_path / "R" / "checkpoints")


def test_fewer_than_a_run_has_kept_goes_on_with_the_best_of_them(tmp_path):
    before = TopCheckpoints(tmp_path, "mAP", 3)
    before.best_k_models = {f"{n}.ckpt": torch.tensor(n / 10) for n in (5, 7, 6)}
    before.kth_best_model_path, before.kth_value = "5.ckpt", torch.tensor(0.5)
    before.best_model_path, before.best_model_score = "7.ckpt", torch.tensor(0.7)
    for k, kth in ((2, "6.ckpt"), (3, "5.ckpt")):
        now = TopCheckpoints(tmp_path, "mAP", k)
        now.load_state_dict(before.state_dict())
        assert list(now.best_k_models) == ["7.ckpt", "6.ckpt", "5.ckpt"][:k]
        assert (now.kth_best_model_path, now.kth_value) == (kth, before.best_k_models[kth])
    more = TopCheckpoints(tmp_path, "mAP", 5)
    more.load_state_dict(before.state_dict())
    assert len(more.best_k_models) == 3


def test_the_names_say_epoch_step_and_value(tmp_path):
    top = TopCheckpoints(tmp_path, "macro/mAP", 1)
    metrics = {
        "epoch": torch.tensor(7),
        "step": torch.tensor(900),
        "val/macro/mAP": torch.tensor(0.5),
    }
    assert (
        Path(top.format_checkpoint_name(metrics)).name == "epoch=07-step=900-macro_mAP=0.5000.ckpt"
    )
    assert Path(top.format_checkpoint_name(metrics)).parent == tmp_path


def test_what_older_checkpoints_say_of_best_is_not_taken_for_a_users(tmp_path):
    """Else a user's callback would remove best.ckpt as the worse one of its own."""
    best, top = best_checkpoints(tmp_path, "top1", 1)
    old = {"best_model_path": "best.ckpt"}
    users = ModelCheckpoint(monitor="val/top1", mode="max").state_key
    checkpoint = {"callbacks": {users: old}}
    for callback in (top, best, top):
        callback.on_load_checkpoint(None, None, checkpoint)
    assert checkpoint == {"callbacks": {best.state_key: old}}
    new = {"callbacks": {best.state_key: {}, users: old}}
    best.on_load_checkpoint(None, None, new)
    assert new["callbacks"] == {best.state_key: {}, users: old}


def test_none_are_kept_unless_asked_and_less_than_none_is_refused(tmp_path):
    assert [type(one) for one in best_checkpoints(tmp_path, "top1", SaveLast().top_k)] == [
        BestCheckpoint
    ]
    with pytest.raises(SavingError, match=r"save\.top_k must be 0"):
        SaveLast(top_k=-1)
