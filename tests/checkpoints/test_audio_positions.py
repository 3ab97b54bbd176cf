"""Position tables of sound of another length; and what the report says of every reshaped table."""

import numpy as np
import pytest
import torch

from checkpoints import CheckpointError, load
from checkpoints.positions import interpolate_time, mel_grid_of, resize_time

KERNEL = "patch_embed.proj.weight"


def draw(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(10))


@pytest.mark.parametrize("steps", [64, 63, 32, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_a_shorter_table_keeps_the_rows_of_its_own_first_steps(steps, dtype):
    table = draw(1, 2 + 512, 5).to(dtype)
    got = resize_time(table, 64, steps, num_prefix=2)
    assert got.dtype == dtype
    assert torch.equal(got, table[:, : 2 + 8 * steps])
    for t in range(steps):
        for f in range(8):
            assert torch.equal(got[0, 2 + 8 * t + f], table[0, 2 + 8 * t + f])


@pytest.mark.parametrize("steps", [80, 65, 128])
def test_a_longer_table_is_linear_in_time_for_each_mel_by_itself(steps):
    prefix, table = draw(1, 1, 5), draw(1, 64 * 8, 5)
    got = resize_time(torch.cat([prefix, table], 1), 64, steps, num_prefix=1)
    assert got.shape == (1, 1 + steps * 8, 5)
    assert torch.equal(got[:, :1], prefix)
    at = (np.arange(steps) + 0.5) * 64 / steps - 0.5  # half-pixel centres, the ends carried on
    for f in range(8):
        band = table[:, f::8]  # every eighth row: time is slowest
        expected = [np.interp(at, np.arange(64), column) for column in band[0].T.numpy()]
        expected = torch.from_numpy(np.stack(expected, 1)).float()
        # Float32 knows a place among 64 to 4e-6, and neighbours differ by up to 6.
        torch.testing.assert_close(got[0, 1 + f :: 8], expected, atol=5e-5, rtol=0)
        assert torch.equal(got[:, 1 + f :: 8], interpolate_time(band, steps))


def test_a_table_linear_in_time_stays_linear_inside():
    steps, bands = torch.arange(10.0), draw(3, 4)
    table = (steps[:, None, None] * bands + draw(3, 4)).reshape(1, 30, 4)
    got = resize_time(table, 10, 25, num_prefix=0).reshape(25, 3, 4)
    slope = got[1:] - got[:-1]
    # The first and the last new centre lie beyond the old ones, where the rows are carried on.
    torch.testing.assert_close(slope[1:-1], (bands * 10 / 25).expand(22, 3, 4), atol=1e-5, rtol=0)


@pytest.mark.parametrize("steps", [3, 10, 17])
def test_a_table_constant_in_time_stays_as_it_is(steps):
    bands = draw(3, 4)
    got = resize_time(bands.repeat(10, 1)[None], 10, steps, num_prefix=0)
    torch.testing.assert_close(got[0], bands.repeat(steps, 1), atol=1e-6, rtol=0)


def test_half_precision_is_interpolated_in_float32():
    table = draw(1, 25, 5).half()
    got = resize_time(table, 8, 16, num_prefix=1)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, resize_time(table.float(), 8, 16, 1), atol=0, rtol=0)


@pytest.mark.parametrize(
    ("count", "grid", "known", "found"),
    [
        (512, (32, 8), (64, 8), (64, 8)),
        (1212, (50, 12), (101, 12), (101, 12)),
        (320, (64, 8), None, (40, 8)),  # the model's mels
        (64, (64, 8), None, (8, 8)),
        (512, (32, 16), None, (32, 16)),  # ours: not all that has 512 patches is AudioMAE's
    ],
)
def test_the_grid_of_a_table_is_the_known_one_or_has_the_models_mels(count, grid, known, found):
    assert mel_grid_of(count, grid, known) == found


@pytest.mark.parametrize(
    ("count", "grid", "known", "line"),
    [
        (512, (64, 4), (64, 8), "64x8 patches .*the model's 64x4.*to get 8"),
        (511, (64, 8), (64, 8), "511 positions .*not its 64x8"),
        (514, (64, 8), None, "514 positions .*no multiple of the model's 8"),
        (0, (64, 8), None, "0 positions"),
    ],
)
def test_a_grid_that_contradicts_the_table_or_the_model_is_refused(count, grid, known, line):
    with pytest.raises(CheckpointError, match=line):
        mel_grid_of(count, grid, known)


def test_a_shorter_model_sees_each_patch_where_the_longer_one_does(audiomae, build_audio, save):
    path, short, long = save(audiomae("fine-tuned")), build_audio(512), build_audio()
    load(short, path)
    load(long, path)
    spectrogram = draw(1, 1, 1024, 128)
    with torch.no_grad():
        tokens = short._pos_embed(short.patch_embed(spectrogram[:, :, :512]))
        expected = long._pos_embed(long.patch_embed(spectrogram))[:, : 1 + 32 * 8]
    torch.testing.assert_close(tokens, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("frames", [16, 128, 320, 512, 1008])
@pytest.mark.parametrize("kind", ["full", "fine-tuned"])
def test_a_shorter_model_gets_the_files_own_rows(audiomae, build_audio, save, kind, frames):
    weights, vit = audiomae(kind), build_audio(frames)  # 128 frames: 8x8, no square all the same
    report = load(vit, save(weights))
    assert torch.equal(vit.pos_embed, weights["pos_embed"][:, : 1 + frames // 2])
    assert report.reshaped == ("pos_embed",)
    assert report.notes == {"pos_embed": f"trimmed from 64 to {frames // 16} time steps"}
    named = [*report.matched, *report.new, *report.reshaped]
    assert sorted(named) == sorted(vit.state_dict())


def test_a_longer_model_gets_rows_along_time(audiomae, build_audio, save):
    weights, vit = audiomae("fine-tuned"), build_audio(1280)
    report = load(vit, save(weights))
    assert torch.equal(vit.pos_embed, resize_time(weights["pos_embed"], 64, 80, 1))
    assert report.notes == {"pos_embed": "interpolated along time from 64 to 80 steps"}
    assert "    pos_embed: interpolated along time from 64 to 80 steps" in str(report).splitlines()


def test_overlapping_patches_follow_the_length_too(audiomae, build_audio, overlap_embed, save):
    weights = audiomae("fine-tuned", 1212)
    vit = build_audio(512, embed_layer=overlap_embed)
    report = load(vit, save(weights))
    assert torch.equal(vit.pos_embed, weights["pos_embed"][:, : 1 + 50 * 12])
    assert report.notes == {"pos_embed": "trimmed from 101 to 50 time steps"}


SPREAD = "the image's, over the frames of a tubelet, divided by their number, 2"
# What the file is made by, the model, and what is said of each weight that is not the file's own.
NOTES = {
    "image, same size": ("official", "encoder", "build", {}, {}),
    "image": (
        "official", "encoder", "build", {"img_size": (48, 64)},
        {"pos_embed": "resized from 4x4 to 6x8"},
    ),
    "separable": (
        "mae_st", "full", "build_video", {"frames": 12, "size": 48},
        {
            "pos_embed_spatial": "resized from 4x4 to 6x6",
            "pos_embed_temporal": "interpolated along time from 3 to 6 steps",
        },
    ),
    "separable to joint": (
        "mae_st", "full", "build_video", {"positions": "joint"},
        {"pos_embed": "the sums of pos_embed_spatial and pos_embed_temporal"},
    ),
    "separable to joint, longer": (
        "mae_st", "full", "build_video", {"positions": "joint", "frames": 12},
        {
            "pos_embed": "the sums of pos_embed_spatial and pos_embed_temporal "
            "(interpolated along time from 3 to 6 steps)"
        },
    ),
    "joint, longer": (
        "mae_st", "joint", "build_video", {"positions": "joint", "frames": 12},
        {"pos_embed": "interpolated along time from 3 to 6 steps"},
    ),
    "joint, larger": (
        "mae_st", "joint", "build_video", {"positions": "joint", "size": 48},
        {"pos_embed": "resized from 4x4 to 6x6"},
    ),
    "fixed": ("videomae", "fine-tuned", "build_video", {"positions": "sinusoid", "frames": 12}, {}),
    "inflated, separable": (
        "official", "encoder", "build_video", {},
        {
            "pos_embed_spatial": "the image's",
            "pos_embed_temporal": "zeros, an image has no time",
            "pos_embed_class": "the image's",
            KERNEL: SPREAD,
        },
    ),
    "inflated, joint, larger": (
        "official", "encoder", "build_video", {"positions": "joint", "size": 48},
        {
            "pos_embed": "the image's, resized from 4x4 to 6x6, at every time step",
            KERNEL: SPREAD,
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", NOTES)
def test_the_report_says_how_each_reshaped_weight_was_made(request, save, case):
    make, kind, model, changes, notes = NOTES[case]
    layout = request.getfixturevalue(make)
    weights = layout("full", "joint") if kind == "joint" else layout(kind)
    vit = request.getfixturevalue(model)(**changes)
    report = load(vit, save(weights), inflate=case.startswith("inflated"))
    assert report.notes == notes
    assert set(report.reshaped) == set(notes)
    lines = str(report).splitlines()
    assert all(f"    {name}: {note}" in lines for name, note in notes.items())


def test_a_joint_table_of_another_length_and_size_says_both(mae_st, build_video, save):
    weights = mae_st("full", "joint") | {"pos_embed": draw(1, 1 + 8 * 16, 32)}
    report = load(build_video("joint", frames=12, size=48), save(weights))
    assert report.notes == {
        "pos_embed": "resized from 4x4 to 6x6 and interpolated along time from 8 to 6 steps"
    }
