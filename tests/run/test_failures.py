"""Which errors are the user's to mend."""

import pytest
from lightning.fabric.utilities.exceptions import MisconfigurationException

import recipes
from checkpoints import CheckpointError
from datamodules import DataError
from tome_lightning.arguments import UsageError
from tome_lightning.finetune import FineTuneError
from tome_lightning.inputs import InputError
from tome_lightning.run.failures import USERS, of_loaded, refusal, users_mistake
from tome_lightning.tasks import TaskError
from tome_lightning.tome import PlanError, UnsupportedModelError
from tome_lightning.trainer.batches import BatchError
from tome_lightning.trainer.checkpoint_file import CheckpointFileError
from tome_lightning.trainer.loss_guard import NonFiniteLossError
from tome_lightning.trainer.same_data import SharedDataError
from tome_lightning.trainer.saving import SavingError

MISTAKES = (
    BatchError, CheckpointError, CheckpointFileError, DataError, FineTuneError, InputError,
    MisconfigurationException, NonFiniteLossError, PlanError, SavingError, SharedDataError, TaskError,
    UnsupportedModelError, UsageError, recipes.RecipeError,
)  # fmt: skip


@pytest.mark.parametrize("kind", MISTAKES)
def test_a_users_mistake_is_found_behind_what_the_parser_raises_on_top(kind: type[Exception]):
    mistake, wrapped = kind("what, got, why, way out"), KeyError("parser")
    wrapped.__context__ = mistake
    assert users_mistake(mistake) is users_mistake(wrapped) is mistake


def test_each_error_that_counts_is_there():
    found = [kind for kind in MISTAKES if of_loaded(kind("x"), *USERS[1:])]
    assert len(found) == len(USERS[1:]) + 1  # SharedDataError is a DataError as well


def test_what_every_process_raises_alike_says_so():
    assert NonFiniteLossError.of_all
    assert SharedDataError.of_all
    assert not UsageError.of_all


def test_an_error_that_passes_through_lightning_is_not_the_users():
    with pytest.raises(KeyError) as caught:
        {}["ours"]
    assert users_mistake(caught.value) is None
    assert refusal(ValueError("raised nowhere")) is None
