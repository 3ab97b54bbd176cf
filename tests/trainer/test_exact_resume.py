"""The callbacks that a fine-tuning brings along: in their place, once, and silent about others' steps."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from tome_lightning.errors import UserError
from tome_lightning.trainer.exact_resume import ExactResume
from tome_lightning.trainer.loss_guard import LossGuard

from ..runs.test_exact_resume import Session

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers", "ignore:.*exists and", "ignore:.*in eval mode"
)


class Searched(Callback):
    """Steps of a search before training: Lightning calls no callback for them."""

    def on_train_start(self, trainer: Any, module: Any) -> None:
        module.guard.add(torch.tensor(math.nan), torch.arange(4))


def test_they_come_after_the_user_s_and_before_those_that_save_in_every_fit(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    session = Session(tmp_path, extra=[Searched()], max_epochs=1)  # a NaN that stops no step
    trainer, module = session.trainer, session.module
    for _ in range(2):
        names = [type(callback).__name__ for callback in trainer.callbacks]
        assert names[-4:] == ["ExactResume", "LossGuard", "ModelCheckpoint", "_AfterEpoch"]
        assert trainer.callbacks[-4:-2] == [module.resume, module.guard]
        assert names.count("ExactResume") == names.count("LossGuard") == 1
        trainer.fit_loop.max_epochs = 2
        trainer.fit(module, datamodule=trainer.datamodule)
    assert "override" not in caplog.text
    assert trainer.global_step == 10


def test_what_they_know_is_in_the_checkpoint_s_part_that_it_always_was_in(tmp_path: Path) -> None:
    session = Session(tmp_path, max_epochs=1)
    saved = torch.load(session.last, weights_only=True)
    assert not {ExactResume.__qualname__, LossGuard.__qualname__} & saved["callbacks"].keys()
    progress = saved["tome_lightning"]["progress"]
    assert (progress["steps"], progress["batches"], progress["scheduled"]) == (5, 5, 5.0)
    saved["tome_lightning"] |= {"logged": {"train/loss": 1.0}}  # as older versions wrote it
    torch.save(saved, session.last)
    assert not Session(tmp_path, ckpt=str(session.last), max_epochs=1).recorder.rows
    progress["lap"] = 1
    torch.save(saved, session.last)
    with pytest.raises(UserError, match=r"way of another version .*--init_from"):
        Session(tmp_path, ckpt=str(session.last), max_epochs=2)
