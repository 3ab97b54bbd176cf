"""From an image file to 8-bit pixels, as RGB or grey: one reader for runs and for pictures."""

from contextlib import suppress

import numpy as np
from PIL import Image, ImageOps

from datamodules.shards.member import opened

MAX_ASPECT = 100  # beyond it, resizing the short side to 256 would need gigabytes

_SIXTEEN_BITS = ("PNG", "PPM", "TIFF", "JPEG2000")  # formats whose whole numbers span 16 bits
_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339  # tags of TIFF 6.0
_WHITE_IS_ZERO, _UNSIGNED = 0, 1


def read_image(path: str, channels: int, exif: bool = True) -> Image.Image:
    """Decode one image as RGB (3 channels) or grey (1 channel), 8 bits each.

    Grey of 16 bits (or a TIFF's 12) keeps its range, and floating point from 0 to 1 becomes 0 to 255.

    Args:
        path: File, or a member of a shard.
        channels: 3 or 1.
        exif: Turn and mirror the picture as its EXIF orientation says, as viewers do.

    Raises:
        Exception: Whatever PIL raises on a file it cannot decode.
        ValueError: One side is more than 100 times as long as the other, or the file does not tell
            which of its numbers is black and which is white.
    """
    with opened(path) as file, Image.open(file) as image:
        check_shape(image)
        image.load()
        if exif:
            # In place, since then the pixels are turned before PIL writes the tag back, which fails for
            # damaged EXIF blocks: these say nothing about the pixels.
            with suppress(Exception):
                ImageOps.exif_transpose(image, in_place=True)
        # PIL warns when it turns a palette with transparency into RGB directly
        palette = image.mode == "P" and "transparency" in image.info
        plain = image.convert("RGBA") if palette else _eight_bit(image)
        return plain.convert("RGB" if channels == 3 else "L")


def check_shape(image: Image.Image) -> None:
    """Refuse an opened picture by its header.

    Raises:
        ValueError: One side is more than 100 times as long as the other.
    """
    if max(image.size) > MAX_ASPECT * min(image.size):
        raise ValueError(f"{image.width}x{image.height} pixels is no picture's shape")


def _eight_bit(image: Image.Image) -> Image.Image:
    """Deep grey (modes I;16, I and F) scaled to mode L, which PIL's `convert` would clip to 0 to 255."""
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image)  # [H, W]
    white = 1.0 if image.mode == "F" else _white(image)
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= white):  # so written, NaN is refused as well
        raise ValueError(
            f"holds numbers from {low:g} to {high:g}, but 0 would be black and {white:g} white; save it "
            "with 8 or 16 bits"
        )
    shares = values / white
    if _tag(image, _PHOTOMETRIC) == _WHITE_IS_ZERO:  # PIL inverts 8 bits only
        shares = 1 - shares
    return Image.fromarray((255 * shares).round().astype(np.uint8))


def _white(image: Image.Image) -> int:
    """The whole number that is white.

    Raises:
        ValueError: The file does not say: numbers of 32 bits, or with a sign, may count anything.
    """
    bits = _tag(image, _BITS_PER_SAMPLE) or 16
    unsigned = (_tag(image, _SAMPLE_FORMAT) or _UNSIGNED) == _UNSIGNED
    if image.format not in _SIXTEEN_BITS or bits > 16 or not unsigned:
        kind = f"{'unsigned' if unsigned else 'signed'} whole numbers of {max(bits, 16)} bits"
        raise ValueError(
            f"holds {kind} ({image.format}), of which none is known to be white; save it with 8 bits, "
            "or 16 without a sign"
        )
    return 2**bits - 1


def _tag(image: Image.Image, number: int) -> int | None:
    """The first value of a TIFF tag; None for other formats and where it is not given."""
    value = getattr(image, "tag_v2", {}).get(number)
    return value[0] if isinstance(value, tuple) else value
