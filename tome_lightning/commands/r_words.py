"""r as a command line writes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import yaml

from tome_lightning.errors import UsageError
from tome_lightning.tome import R


def parse_r(text: str) -> R:
    """r as the command line writes it: ``16``, ``16:-1.0``, ``8,8,8``, ``keep=0.9``, or YAML.

    Raises:
        UsageError: For anything else.
    """
    try:
        if text[:1] in "[{" and text:
            value: R = yaml.safe_load(text)
            return value
        if text.startswith("keep="):
            return {"keep": float(text.removeprefix("keep="))}
        if ":" in text:
            r, inflection = text.split(":")
            return {"r": int(r), "inflection": float(inflection)}
        if "," in text:
            return [int(part) for part in text.split(",") if part.strip()]
        return int(text)
    except (ValueError, yaml.YAMLError):
        raise UsageError(
            f"--r is tokens merged per block, 16, with an inflection, 16:-1.0, a list, 8,8,8, or the "
            f"share that is kept, keep=0.9; got {text!r}."
        ) from None


def r_label(r: R) -> str:
    """For a table or a picture: r=16, r=16:-1, keep=0.9."""
    text = r_text(r)
    return text if text.startswith("keep") else f"r={text}"


def r_text(r: R) -> str:
    """The words that `parse_r` reads as this r."""
    if isinstance(r, Mapping):
        return f"keep={r['keep']:g}" if "keep" in r else f"{r['r']:g}:{r.get('inflection', 0.0):g}"
    return ",".join(map(str, r)) if isinstance(r, Sequence) else str(r)
