import fractions
import math

import numpy as np
import pytest

from tome_lightning.tome import PlanError, layer_plan, requested_plan, token_counts
from tome_lightning.tome.plan import check_possible, check_r, scale_r

INVALID = {
    "negative": (-1, "0 or more"),
    "float": (8.0, "whole number"),
    "bool": (True, "whole number"),
    "str": ("8", "whole number"),
    "bytes": (b"8", "whole number"),
    "none": (None, "whole number"),
    "nan": (math.nan, "whole number"),
    "too long": ([1] * 13, "13 values but the model has 12 blocks"),
    "negative in list": ([4, -4], r"r\[1\]"),
    "float in list": ([4, 4.5], r"r\[1\]"),
    "bool in list": ([True, 4], r"r\[0\]"),
    "inflection pair": ([16, -1.0], "inflection"),  # the paper's tuple, read as a list
    "keep zero": ({"keep": 0}, "above 0"),
    "keep above one": ({"keep": 1.01}, "up to 1"),
    "keep negative": ({"keep": -0.5}, "above 0"),
    "keep nan": ({"keep": math.nan}, "keep"),
    "keep inf": ({"keep": math.inf}, "keep"),
    "keep bool": ({"keep": True}, "keep"),
    "keep str": ({"keep": "0.9"}, "keep"),
    "inflection high": ({"r": 16, "inflection": 1.5}, "between -1"),
    "inflection low": ({"r": 16, "inflection": -1.5}, "between -1"),
    "inflection nan": ({"r": 16, "inflection": math.nan}, "inflection"),
    "inflection str": ({"r": 16, "inflection": "-1"}, "inflection"),
    "mapping float r": ({"r": 16.0, "inflection": 0.0}, "whole number"),
    "mapping negative r": ({"r": -16}, "0 or more"),
    "unknown key": ({"r": 16, "inflexion": -1.0}, "'inflexion', 'r'"),
    "keep and r": ({"keep": 0.9, "r": 1}, "'keep', 'r'"),
    "no key": ({}, "keys"),
    "inflection alone": ({"inflection": 1.0}, "keys"),
    "key of another type": ({1: 2, "r": 3}, "keys"),
}


@pytest.mark.parametrize("name", INVALID)
def test_an_r_that_cannot_be_followed_is_one_clear_line(name):
    r, reason = INVALID[name]
    for check in (check_r, requested_plan, lambda r, depth: layer_plan(r, depth, 197, 1)):
        with pytest.raises(PlanError, match=reason) as error:
            check(r, 12)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("r", "plain"),
    [
        (8, 8),
        (np.int64(8), 8),
        ([3, 2], [3, 2]),
        ((3, 2), [3, 2]),
        (range(3), [0, 1, 2]),
        ([], []),
        ({"r": 16}, {"r": 16, "inflection": 0.0}),
        ({"inflection": -1, "r": 16}, {"r": 16, "inflection": -1.0}),
        ({"keep": 1}, {"keep": 1.0}),
    ],
)
def test_an_r_has_one_plain_form(r, plain):
    assert check_r(r, 12) == plain
    assert type(check_r(r, 12)) is type(plain)
    assert check_r(check_r(r, 12), 12) == plain


def test_a_checked_r_is_not_the_callers_object():
    r = {"keep": 0.9}
    checked = check_r(r, 12)
    r["keep"] = 7.0
    assert checked == {"keep": 0.9}


def test_a_short_list_is_filled_with_zeros():
    assert requested_plan([4, 4, 4], 12) == (4,) * 3 + (0,) * 9


def test_a_keep_share_asks_for_no_number():
    assert requested_plan({"keep": 0.9}, 12) is None


@pytest.mark.parametrize("inflection", [-1.0, -0.3, 0.0, 0.7, 1.0])
def test_one_block_gets_all_of_r(inflection):
    assert requested_plan({"r": 5, "inflection": inflection}, 1) == (5,)


@pytest.mark.parametrize("depth", [2, 3, 12, 24])
def test_inflection_moves_r_over_depth_and_loses_less_than_one_token_a_block(depth):
    for r in range(1, 40):
        early = requested_plan({"r": r, "inflection": -1.0}, depth)
        late = requested_plan({"r": r, "inflection": 1.0}, depth)
        assert early[0] == 2 * r
        assert early[-1] == late[0] == 0
        assert list(early) == sorted(early, reverse=True)
        assert list(late) == sorted(late)
        assert r * depth - depth < sum(early) <= r * depth
        assert r * depth - depth < sum(late) <= r * depth


@pytest.mark.parametrize(
    ("n", "prefix", "depth", "r", "end", "clamped_from"),
    [
        (197, 1, 12, 16, 11, 11),
        (197, 1, 24, 8, 7, 23),
        (197, 1, 24, 13, 2, 14),
        (257, 1, 32, 8, 5, 31),
        (577, 1, 24, 25, 8, 22),
        (1569, 1, 24, 65, 38, 23),
        (1569, 1, 12, 65, 789, None),
        (1568, 0, 24, 65, 37, 23),
        (513, 1, 12, 40, 37, 11),
        (198, 2, 12, 13, 42, None),
    ],
)
def test_a_block_merges_at_most_half_of_the_patches(n, prefix, depth, r, end, clamped_from):
    plan = layer_plan(r, depth, n, prefix)
    assert token_counts(plan, n)[-1] == end
    first = next((i for i, merged in enumerate(plan) if merged < r), None)
    assert first == clamped_from
    for tokens, merged in zip(token_counts(plan, n), plan, strict=False):
        assert merged == min(r, (tokens - prefix) // 2)


@pytest.mark.parametrize("keep", [0.9, 0.7, 0.5, 1.0, 0.999, 1 / 3, 1e-5])
@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_keep_leaves_at_least_that_share_in_every_block_and_no_token_more(keep, prefix):
    plan = layer_plan({"keep": keep}, 12, 196 + prefix, prefix)
    share = fractions.Fraction(str(keep))
    for tokens, merged in zip(token_counts(plan, 196 + prefix), plan, strict=False):
        patches = tokens - prefix
        if merged < patches // 2:  # not clamped
            assert patches - merged >= share * patches
            assert patches - merged - 1 < share * patches
        else:
            assert patches - patches // 2 - 1 < max(share, fractions.Fraction(1, 2)) * patches


def test_keep_nine_tenths_of_ten_is_nine():
    """Not ten, as the double just above nine tenths would have it."""
    assert layer_plan({"keep": 0.9}, 1, 11, 1) == (1,)
    assert layer_plan({"keep": 0.7}, 1, 10, 0) == (3,)


def test_keeping_everything_merges_nothing():
    assert layer_plan({"keep": 1.0}, 12, 197, 1) == (0,) * 12


@pytest.mark.parametrize(("n", "prefix"), [(1, 0), (1, 1), (2, 1), (5, 5), (3, 5)])
@pytest.mark.parametrize("r", [8, [8], {"r": 8, "inflection": 1.0}, {"keep": 0.1}])
def test_too_few_tokens_merge_nothing(n, prefix, r):
    assert layer_plan(r, 3, n, prefix) == (0, 0, 0)


def test_token_counts_include_both_ends():
    assert token_counts((3, 0, 2), 10) == (10, 7, 7, 5)
    assert token_counts((), 10) == (10,)


@pytest.mark.parametrize(
    ("r", "half"),
    [
        (8, 4),
        (7, 3),
        (1, 0),
        ([8, 7, 0], [4, 3, 0]),
        ({"r": 9, "inflection": -1.0}, {"r": 4, "inflection": -1.0}),
        ({"keep": 0.5}, {"keep": 0.75}),
    ],
)
def test_a_share_of_r_keeps_its_form(r, half):
    assert scale_r(r, 0.5, 12) == half
    assert scale_r(r, 1.0, 12) == check_r(r, 12)
    assert layer_plan(scale_r(r, 0.0, 12), 12, 197, 1) == (0,) * 12


@pytest.mark.parametrize(
    ("r", "tokens", "prefix", "fine"),
    [
        (784, 1569, 1, True),
        (785, 1569, 1, False),
        (784, 1568, 0, True),
        ([0, 99], 197, 1, False),
        ({"r": 65, "inflection": -1.0}, 197, 1, False),  # 130 in the first block
        ({"r": 40, "inflection": -1.0}, 197, 1, True),
        ({"keep": 0.01}, 197, 1, True),  # a share is clamped, whatever it is
    ],
)
def test_an_r_that_no_block_can_follow_is_refused(r, tokens, prefix, fine):
    if fine:
        check_possible(r, 12, tokens, prefix)
        return
    with pytest.raises(PlanError, match=rf"{tokens} tokens a block can merge at most .*Lower r"):
        check_possible(r, 12, tokens, prefix)
