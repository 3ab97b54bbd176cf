"""One reader of images: modes, depths, orientation."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules import ImageNet
from datamodules.images.reading import read_image

DATA = Path(__file__).parents[2] / "data"
ORIENTATION = 0x0112


def grey_levels(path: Path, channels: int = 1) -> np.ndarray:
    return np.asarray(read_image(str(path), channels))


def save_tiff(path: Path, pixels: np.ndarray, **tags: int) -> None:
    """A TIFF of one strip, with tags that PIL's writer would not give (little-endian)."""
    height, width = pixels.shape
    bits = tags.get("bits", 8 * pixels.itemsize)
    told = {
        256: width, 257: height, 258: bits, 259: 1, 262: tags.get("photometric", 1), 273: 8,
        277: 1, 278: height, 279: pixels.nbytes, 339: {"u": 1, "i": 2, "f": 3}[pixels.dtype.kind],
    }  # fmt: skip
    content = pixels.tobytes()
    entries = b"".join(np.array([tag, 4], "<u2").tobytes() + np.array([1, value], "<u4").tobytes()
                       for tag, value in told.items())  # fmt: skip
    start = 8 + len(content)
    head = b"II*\0" + np.array([start], "<u4").tobytes()
    path.write_bytes(head + content + np.array([len(told)], "<u2").tobytes() + entries + b"\0" * 4)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["gray16.png", "float01.tif"])
def test_a_deep_ramp_keeps_its_mean_and_its_levels(name: str, channels: int) -> None:
    levels = grey_levels(DATA / name, channels)
    assert 127 <= levels.mean() <= 128  # 255 / 2; clipped, all would be black, or half of it white
    assert len(np.unique(levels)) >= 250
    assert (levels.min(), levels.max()) == (0, 255)


@pytest.mark.parametrize("name", ["deep.png", "deep.tif", "deep.pgm", "deep.jp2"])
def test_sixteen_bits_are_scaled_in_every_format(name: str, tmp_path: Path) -> None:
    deep = np.array([[0, 257, 257 * 100], [257 * 200, 65_534, 65_535]], dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / name)
    assert grey_levels(tmp_path / name).tolist() == [[0, 1, 100], [200, 255, 255]]


def test_deep_tiffs_are_scaled_by_what_their_tags_say(tmp_path: Path) -> None:
    deep = np.array([[0, 257 * 100], [257 * 200, 65_535]], dtype=np.uint16)
    save_tiff(tmp_path / "white_is_zero.tif", deep, photometric=0)
    assert grey_levels(tmp_path / "white_is_zero.tif").tolist() == [[255, 155], [55, 0]]
    save_tiff(tmp_path / "big.tif", deep)
    assert grey_levels(tmp_path / "big.tif").tolist() == [[0, 100], [200, 255]]
    packed = np.frombuffer(bytes.fromhex("000fff800000"), np.uint8).reshape(2, 3)  # 0 fff 800 0
    save_tiff(tmp_path / "twelve.tif", packed)
    content = bytearray((tmp_path / "twelve.tif").read_bytes())
    for tag, value in ((256, 2), (258, 12)):
        content[content.index(np.array([tag, 4], "<u2").tobytes()) + 8] = value
    (tmp_path / "twelve.tif").write_bytes(content)
    assert grey_levels(tmp_path / "twelve.tif").tolist() == [[0, 255], [128, 0]]


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        (np.array([[-5, 7]], dtype=np.int16), "signed whole numbers of 16 bits"),
        (np.array([[0, 70_000]], dtype=np.uint32), "unsigned whole numbers of 32 bits"),
        (np.array([[-1, 9]], dtype=np.int32), "signed whole numbers of 32 bits"),
        (np.array([[0, 255]], dtype=np.float32), "numbers from 0 to 255, .* 1 white"),
        (np.array([[-0.5, 0.5]], dtype=np.float32), "numbers from -0.5 to 0.5"),
        (np.array([[0, np.nan]], dtype=np.float32), "numbers from nan to nan"),
    ],
)
def test_numbers_without_a_known_white_are_refused_with_the_reason(
    pixels: np.ndarray, reason: str, tmp_path: Path
) -> None:
    save_tiff(tmp_path / "a.tif", pixels)
    with pytest.raises(ValueError, match=reason):
        read_image(str(tmp_path / "a.tif"), 3)


def test_a_turned_picture_is_read_as_the_upright_one() -> None:
    """One camera shot, and a program's upright copy of it; JPEG moves levels a little."""
    upright = grey_levels(DATA / "upright_left.png").astype(int)
    turned = DATA / "exif3_left.jpg"
    assert abs(grey_levels(turned) - upright).mean() < 2
    as_stored = np.asarray(read_image(str(turned), 1, exif=False)).astype(int)
    assert abs(as_stored - upright).mean() > 10
    assert abs(as_stored[::-1, ::-1] - upright).mean() < 2


TURNED = {  # what a camera stores of an upright picture, by the tag it writes (EXIF 2.32, 4.6.4)
    1: lambda p: p, 2: np.fliplr, 3: lambda p: np.rot90(p, 2), 4: np.flipud,
    5: np.transpose, 6: np.rot90, 7: lambda p: np.rot90(p, 2).T, 8: lambda p: np.rot90(p, -1),
}  # fmt: skip


@pytest.mark.parametrize("ending", ["png", "webp", "avif", "tif"])
@pytest.mark.parametrize("tag", TURNED)
def test_every_orientation_is_undone_in_every_format(tag: int, ending: str, tmp_path: Path) -> None:
    upright = np.array([[0, 90, 180], [40, 130, 250]], dtype=np.uint8).repeat(16, 0).repeat(16, 1)
    exif = Image.Exif()
    exif[ORIENTATION] = tag
    lossless = {"webp": {"lossless": True}, "avif": {"quality": 100}}.get(ending, {})
    stored = Image.fromarray(np.ascontiguousarray(TURNED[tag](upright))).convert("RGB")
    stored.save(tmp_path / f"a.{ending}", exif=exif, **lossless)
    seen = grey_levels(tmp_path / f"a.{ending}").astype(int)
    assert seen.shape == upright.shape
    assert abs(seen - upright).max() <= 2


def test_a_deep_picture_is_turned_as_well(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    deep = np.array([[0, 25_700, 65_535]], dtype=np.uint16)
    Image.fromarray(np.ascontiguousarray(np.rot90(deep))).save(tmp_path / "a.png", exif=exif)
    assert grey_levels(tmp_path / "a.png").tolist() == [[0, 100, 255]]


def test_a_damaged_exif_block_does_not_cost_the_picture(tmp_path: Path) -> None:
    pixels = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))
    for exif in (b"Exif\0\0II*\0\x08\0\0\0\xff\xff", b"Exif\0\0nonsense", b"Exif\0\0"):
        pixels.save(tmp_path / "a.jpg", exif=exif, quality=95)
        assert abs(grey_levels(tmp_path / "a.jpg").astype(int) - np.asarray(pixels)).max() < 8


def test_runs_turn_pictures_unless_told_not_to(make_folder) -> None:
    root = make_folder()
    for path in (root / "val" / "ant").iterdir():
        exif = Image.Exif()
        exif[ORIENTATION] = 3
        with Image.open(path) as picture:
            picture.save(path, exif=exif)
    seen = {}
    for exif in (True, False):
        data = ImageNet(str(root), size=32, num_workers=0, exif=exif, crop_pct=1.0)
        data.setup("validate")
        seen[exif] = data.samples("val")[0][0]
    assert (seen[True] == seen[False].flip(-1, -2)).float().mean() > 0.9  # a resized side may round


def test_any_mode_is_read_as_rgb_or_grey_without_a_warning(tmp_path: Path) -> None:
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    images = {
        "palette.png": palette, "rgba.png": Image.new("RGBA", (4, 4), (10, 20, 30, 0)),
        "la.png": Image.new("LA", (4, 4)), "one.png": Image.new("1", (4, 4)),
        "cmyk.jpg": Image.new("CMYK", (4, 4)),
    }  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name, image in images.items():
            transparency = {"transparency": b"\x00\x80"} if name == "palette.png" else {}
            image.save(tmp_path / name, **transparency)
            assert read_image(str(tmp_path / name), 3).mode == "RGB"
            assert read_image(str(tmp_path / name), 1).mode == "L"
        assert read_image(str(tmp_path / "palette.png"), 3).getpixel((0, 0)) == (10, 20, 30)


def test_an_absurd_shape_is_refused_before_decoding(tmp_path: Path) -> None:
    Image.new("L", (1, 200)).save(tmp_path / "line.png")
    with pytest.raises(ValueError, match="1x200 pixels"):
        read_image(str(tmp_path / "line.png"), 3)
