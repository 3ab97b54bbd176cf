"""What `scan` does with a picture: decode it as training does, or look at both of its ends."""

import os
import stat
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from PIL import Image

from datamodules.facts import FactTable
from datamodules.file_check import FileCheck, first_of, most_common, spread
from datamodules.images.reading import check_shape, read_image
from datamodules.shards.member import file_of, opened

BIG_SIDE = 640  # pixels: well above the 256 that evaluation resizes to
TAIL = 64  # bytes; some writers pad what follows the end of a JPEG
PADDING = b"\0\r\n "
_JPEG_END = b"\xff\xd9"  # EOI, ITU-T T.81, B.1.1.3; compressed data cannot hold it
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"  # the empty chunk IEND and its CRC


@dataclass
class ImageCheck(FileCheck):
    """Decodes a picture with the reader that training has, or reads its header and its end only.

    A quick check finds what is empty, no picture, too large or cut short, and not what is damaged inside.
    Where the end is not as it should be, or the kind of file has no mark of its own there, it decodes
    all, so that it calls no file bad that training reads.

    Args:
        channels: 3 for RGB, 1 for grey.
        exif: Whether training turns pictures as their EXIF orientation says.
        quick: Header and end only, of JPEG and PNG.
    """

    channels: int
    exif: bool = True
    quick: bool = False

    def __call__(self, path: str) -> dict[str, Any]:
        if not stat.S_ISREG(os.stat(file_of(path)).st_mode):  # to open a pipe is to wait for ever
            raise ValueError("is no regular file")
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # PIL's, on EXIF blocks and on sizes that it still reads
            with opened(path) as file, Image.open(file) as image:
                check_shape(image)
                facts: dict[str, Any] = {
                    "format": str(image.format),
                    "mode": image.mode,
                    "width": image.width,
                    "height": image.height,
                }
                deep = image.mode.startswith(("I", "F"))  # which numbers it holds decides
                whole = self.quick and not deep and _is_whole(file, str(image.format))
            if not whole:
                read_image(path, self.channels, self.exif)
        return facts

    @property
    def settings(self) -> dict[str, Any]:
        """How pictures are read, and whether all of each was."""
        return {"channels": self.channels, "exif": self.exif, "quick": self.quick}

    def summary(self, facts: FactTable) -> dict[str, Any]:
        """`formats` and `modes` (Pillow's names) with the number of files; `width`, `height`."""
        return {
            "formats": most_common(facts["format"]),
            "modes": most_common(facts["mode"]),
            "width": spread(facts["width"]),
            "height": spread(facts["height"]),
        }

    def tell(self, content: Mapping[str, Any]) -> list[str]:
        """Formats and sizes, with a hint where pixels are decoded that nobody sees."""
        if not content["formats"]:
            return []
        width, height = content["width"]["median"], content["height"]["median"]
        lines = [
            f"{first_of(content['formats'])}; {first_of(content['modes'])}; "
            f"{width:g}x{height:g} pixels (medians)"
        ]
        if min(width, height) > BIG_SIDE:
            lines.append(
                "hint: most of the reading time goes into pixels that are thrown away; resize the "
                "pictures to a short side of 512 or less (pack --resize 512)"
            )
        return lines


def _is_whole(file: BinaryIO, kind: str) -> bool:
    """Whether a file surely ends where its format says that the picture does."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - TAIL))
    tail = file.read()
    if kind == "JPEG":
        return tail.rstrip(PADDING).endswith(_JPEG_END)
    return kind == "PNG" and tail.endswith(_PNG_END)
