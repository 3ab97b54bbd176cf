"""What a notebook's user holds becomes the words that a command line would have, or one clear error."""

import enum
import math
import sys
from collections import deque
from datetime import timedelta
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from tome_lightning import Image, RSchedule
from tome_lightning.arguments import UsageError
from tome_lightning.run.overrides import Objects, plain, read_overrides


class Clip(enum.Enum):
    NORM = "norm"


class Level(enum.IntEnum):
    HIGH = 3


VALUES: list[tuple[Any, Any]] = [
    (np.float64(0.5), 0.5), (np.float32(0.25), 0.25), (np.longdouble(2), 2.0), (np.int64(3), 3),
    (np.uint8(7), 7), (np.bool_(True), True), (np.str_("a"), "a"), (np.array(4), 4),
    (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]), (np.array([0.5, np.inf]), [0.5, math.inf]),
    (np.array([np.float32(1), "x", None], dtype=object), [1.0, "x", None]),
    (torch.tensor(2), 2), (torch.tensor([0.5, 1.0], requires_grad=True), [0.5, 1.0]),
    (torch.tensor(False), False), (Path("a b/c"), "a b/c"), (PurePosixPath("/x"), "/x"),
    (Clip.NORM, "norm"), (Level.HIGH, 3), ((1, 2), [1, 2]), (range(3), [0, 1, 2]),
    (deque([np.int8(1)]), [1]), ({"a": (np.int32(1),), np.int64(4): None}, {"a": [1], 4: None}),
    (timedelta(hours=30, seconds=5), "01:06:00:05"), (None, None), (True, True), (1e-5, 1e-5),
]  # fmt: skip


@pytest.mark.parametrize(("value", "expected"), VALUES, ids=lambda value: repr(value)[:40])
def test_values_become_plain_ones_and_come_back_as_the_parser_reads_yaml(value: Any, expected: Any):
    found = plain(value, "x")
    assert found == expected
    assert type(found) is type(expected)
    (word,) = read_overrides({"x.y": value})[0]
    name, _, text = word.partition("=")
    assert name == "--x.y"
    assert "\n" not in text
    assert (text if isinstance(expected, str) else yaml.safe_load(text)) == expected


def test_a_long_array_stays_on_one_line_and_text_in_lists_stays_text():
    (word,) = read_overrides({"x": [*map(str, range(200)), "on", "é"]})[0]
    assert yaml.safe_load(word.partition("=")[2]) == [*map(str, range(200)), "on", "é"]


def test_our_own_inputs_and_schedules_are_written_out():
    schedule = plain(RSchedule("random", choices=(1, 2)), "tome.schedule")
    assert schedule == {
        "kind": "random", "start": 0.0, "stop": 1.0, "full": 0.5, "plateaus": 4, "choices": [1, 2],
        "seed": 0,
    }  # fmt: skip
    image = plain(Image(28, 7, 1), "model.input")
    assert image["class_path"] == "tome_lightning.inputs.Image"
    assert image["init_args"]["patch"] == 7


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (object(), "x cannot be an object of the class object"),
        (1 + 2j, "class complex"),
        (b"bytes", "class bytes"),
        ({1, 2}, "class set"),
        (np.datetime64("2026-01-01"), r"class datetime\.date"),
        (torch.tensor(1j), "class complex"),
        ([1, {"a": object()}], r"x\[1\]\.a cannot be"),
        ({(1, 2): 3}, r"x has the key \[1, 2\]"),
        (RSchedule, r"the class tome_lightning\.tome\.schedule\.RSchedule\. Make an object of it"),
        (EarlyStopping("a"), r"callback and logger objects go to fit\(\.\.\., callbacks="),
    ],
)
def test_what_cannot_be_an_option_is_one_line_that_says_where_and_the_way_out(
    value: Any, told: str
):
    with pytest.raises(UsageError, match=told) as error:
        read_overrides({"x": value})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("given", "more", "told"),
    [
        ([{1: 2}], {}, "1 is no option"),
        ([{"model r": 2}], {}, "'model r' is no option"),
        ([[("model.r", 2)]], {}, r"must be a dict such as .* class list"),
        ([{"seed": 1}, {"seed": 2}], {}, "seed is given twice"),
        ([{"trainer.logger": False}], {"logger": True}, r"trainer\.logger is given twice"),
        ([], {"logger": [CSVLogger("."), "x.Logger"]}, "objects and names"),
        ([], {"callbacks": [3]}, "callbacks cannot hold an object of the class int"),
        ([], {"callbacks": EarlyStopping}, r"Make an object of it, EarlyStopping\(\.\.\.\)"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(given: Any, more: Any, told: str):
    with pytest.raises(UsageError, match=told):
        read_overrides(*given, **more)


def test_objects_of_the_other_lightning_package_are_told_from_ours(monkeypatch):
    module = ModuleType("pytorch_lightning.callbacks")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    stranger = type("EarlyStopping", (), {"__module__": module.__name__})()
    with pytest.raises(UsageError, match=r"import it from lightning\.pytorch"):
        read_overrides({}, callbacks=[stranger])


def test_objects_are_taken_out_and_names_stay_words():
    one, two, logger = Callback(), EarlyStopping("val/loss"), CSVLogger(".")
    named = {"class_path": "a.B", "init_args": {"k": np.int64(3)}}
    words, objects = read_overrides(
        {"trainer.callbacks": [one, named]}, callbacks=two, logger=logger
    )
    assert objects == Objects((one, two), (logger,))
    assert words == ["--trainer.callbacks=[{class_path: a.B, init_args: {k: 3}}]"]
    words, objects = read_overrides(
        {"trainer.callbacks": one}, callbacks=("a.B", named), logger=False
    )
    assert objects == Objects((one,))
    assert words == [
        "--trainer.logger=false", "--trainer.callbacks+=a.B",
        "--trainer.callbacks+={class_path: a.B, init_args: {k: 3}}",
    ]  # fmt: skip
    assert read_overrides({"trainer.callbacks": None}) == (["--trainer.callbacks=null"], Objects())
    assert read_overrides({"trainer.logger": [logger, logger]})[1].loggers == (logger, logger)


def test_what_is_not_given_is_no_word():
    assert read_overrides(None, {"resume": None}) == ([], Objects())


def test_a_checkpoint_notes_the_classes_of_objects_beside_those_of_the_config():
    objects = Objects((ModelCheckpoint(),), (CSVLogger("."),))
    config = {"callbacks": {"class_path": "a.B"}, "logger": None, "max_steps": 3}
    noted = objects.noted(config)
    path = "lightning.pytorch.callbacks.model_checkpoint.ModelCheckpoint"
    assert noted["callbacks"] == [{"class_path": "a.B"}, {"class_path": path}]
    assert [one["class_path"].rpartition(".")[2] for one in noted["logger"]] == ["CSVLogger"]
    assert (noted["max_steps"], config["logger"]) == (3, None)
    assert objects.comment().count("\n") == 1
    assert Objects().noted(config) == config
    assert Objects().comment() == ""
