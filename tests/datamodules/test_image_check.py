"""What passes the scan of pictures trains, and what does not train does not pass a full one."""

import os
import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.facts import FactTable
from datamodules.image_check import ImageCheck
from datamodules.image_reader import read_image

FULL, QUICK = ImageCheck(3), ImageCheck(3, quick=True)


def noise(size: tuple[int, int] = (64, 48), mode: str = "RGB") -> Image.Image:
    return Image.effect_noise(size, 90).convert(mode)


def save(path: Path, **options) -> Path:
    noise(mode=options.pop("mode", "RGB")).save(path, **options)
    return path


GOOD = {
    "a JPEG": lambda folder: save(folder / "x.jpg"),
    "CMYK": lambda folder: save(folder / "x.jpg", mode="CMYK"),
    "a palette": lambda folder: save(folder / "x.png", mode="P"),
    "a PNG named JPEG": lambda folder: save(folder / "x.JPEG", format="PNG"),
    "WebP": lambda folder: save(folder / "x.webp"),
    "a TIFF": lambda folder: save(folder / "x.tif"),
    "padded": lambda folder: padded(save(folder / "x.jpg"), b"\0" * 20),
    "followed by anything": lambda folder: padded(save(folder / "x.jpg"), b"made by" * 99),
}
CUT = {
    "JPEG": lambda folder: cut(save(folder / "x.jpg"), 0.7),
    "JPEG by a few bytes": lambda folder: cut(save(folder / "x.jpg"), -40),
    "PNG": lambda folder: cut(save(folder / "x.png"), 0.5),
    "BMP": lambda folder: cut(save(folder / "x.bmp"), 0.5),
    "WebP": lambda folder: cut(save(folder / "x.webp"), 0.5),
}
OTHER = {
    "empty": lambda folder: written(folder / "x.jpg", b""),
    "text": lambda folder: written(folder / "x.jpg", b"<html>404: not found</html>"),
    "zeros": lambda folder: written(folder / "x.png", bytes(5000)),
    "a bomb": lambda folder: bomb(folder / "x.png"),
    "no picture's shape": lambda folder: strip(folder / "x.png"),
    "numbers without a white": lambda folder: deep(folder / "x.tif"),
    "missing": lambda folder: folder / "x.jpg",
}


def padded(path: Path, tail: bytes) -> Path:
    return written(path, path.read_bytes() + tail)


def cut(path: Path, share: float) -> Path:
    content = path.read_bytes()
    return written(path, content[: int(share * len(content)) if share > 0 else int(share)])


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def bomb(path: Path) -> Path:
    """A header of a billion pixels, as if cut: a real one would be refused as well, before it is read."""
    content = bytearray(save(path).read_bytes())
    content[16:24] = (40_000).to_bytes(4, "big") * 2
    import zlib

    content[29:33] = zlib.crc32(bytes(content[12:29])).to_bytes(4, "big")
    return written(path, bytes(content))


def strip(path: Path) -> Path:
    Image.new("L", (3000, 2)).save(path)
    return path


def deep(path: Path) -> Path:
    Image.fromarray(np.full((8, 8), 70_000, dtype=np.int32)).save(path)
    return path


@pytest.mark.parametrize("check", [FULL, QUICK])
@pytest.mark.parametrize("case", GOOD)
def test_what_training_reads_is_good(case: str, check: ImageCheck, tmp_path: Path) -> None:
    path = GOOD[case](tmp_path)
    read_image(str(path), 3)
    facts = check(str(path))
    assert (facts["width"], facts["height"]) == (64, 48)


@pytest.mark.parametrize("check", [FULL, QUICK])
@pytest.mark.parametrize("case", [*CUT, *OTHER])
def test_what_training_cannot_read_is_bad_with_the_same_reason(
    case: str, check: ImageCheck, tmp_path: Path
) -> None:
    path = (CUT | OTHER)[case](tmp_path)
    reasons = []
    for read in (lambda path: read_image(path, 3), check):
        with pytest.raises((OSError, ValueError, Image.DecompressionBombError)) as caught:
            read(str(path))
        reasons.append((caught.type, str(caught.value)))
    assert reasons[0] == reasons[1]


def test_damage_inside_is_found_by_a_full_check_alone(tmp_path: Path) -> None:
    path = save(tmp_path / "x.png")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    written(path, bytes(content))
    QUICK(str(path))
    with pytest.raises((OSError, SyntaxError)):
        FULL(str(path))


def test_a_quick_check_decodes_no_whole_jpeg(tmp_path: Path, monkeypatch) -> None:
    path = save(tmp_path / "x.jpg")
    monkeypatch.setattr("datamodules.image_check.read_image", None)
    assert QUICK(str(path))["format"] == "JPEG"
    with pytest.raises(TypeError):
        FULL(str(path))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.jpg")
    with pytest.raises(ValueError, match="no regular file"):
        QUICK(str(tmp_path / "x.jpg"))


def test_sums_name_kinds_and_hint_at_large_pictures(tmp_path: Path) -> None:
    noise((900, 700)).save(tmp_path / "big.jpg")
    table = FactTable(FULL(str(tmp_path / "big.jpg")) for _ in range(3))
    content = FULL.summary(table)
    assert content["formats"] == {"JPEG": 3}
    assert content["height"] == {"min": 700, "median": 700, "max": 700}
    assert FULL.tell(content)[0] == "JPEG (3); RGB (3); 900x700 pixels (medians)"
    assert "resize" in FULL.tell(content)[1]
    assert FULL.tell(FULL.summary(FactTable())) == []
    assert pickle.loads(pickle.dumps(QUICK)) == QUICK


def test_what_pillow_only_warns_of_is_good(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)  # an error from twice as many
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert FULL(str(save(tmp_path / "x.jpg")))["width"] == 64
