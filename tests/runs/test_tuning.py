"""Lightning's searches for a learning rate and a batch size save and load before the loop begins."""

from pathlib import Path

import pytest
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder

from .test_exact_resume import BATCH, BATCHES, EPOCHS, Session

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers", "ignore:.*exists and", "ignore:.*in eval mode"
)


def test_a_search_for_the_learning_rate_leaves_the_run_whole(tmp_path: Path):
    finder = LearningRateFinder(num_training_steps=4, early_stop_threshold=None, update_attr=False)
    run = Session(tmp_path, extra=[finder])
    assert len(finder.optimal_lr.results["loss"]) == 4
    assert list(run.recorder.rows)[-1] == (EPOCHS - 1, BATCHES - 1)
    assert run.trainer.global_step == EPOCHS * BATCHES
    assert run.last.exists()
    assert not list(tmp_path.glob(".lr_find*"))


def test_a_search_for_the_batch_size_leaves_the_run_whole(tmp_path: Path):
    finder = BatchSizeFinder(steps_per_trial=1, init_val=2, max_trials=1)
    run = Session(tmp_path, extra=[finder])
    assert finder.optimal_batch_size == run.trainer.datamodule.batch_size == 2
    assert run.trainer.global_step == EPOCHS * (BATCHES * BATCH // 2)
    assert run.last.exists()
    assert not list(tmp_path.glob(".scale_batch_size*"))
