"""Which column of a table holds the files, which the labels: as asked, as `datasets` noted, as usual."""

import json
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.errors import DataError
from datamodules.shards.row import Wanted
from datamodules.shards.table_file import Table, arrow, holds_bytes

FILES = ("Image", "Video", "Audio")  # features of `datasets` whose cells are files
USUAL = {
    "Image": ("image", "img", "picture", "photo"),
    "Video": ("video", "clip"),
    "Audio": ("audio", "sound", "wave"),
}
ANYTHING = ("bytes", "content", "data", "file")  # names that say nothing of the kind
LABELS = ("label", "labels", "cls", "class", "fine_label", "category", "target")


class Columns(NamedTuple):
    """Which columns of a table hold what.

    Attributes:
        content: The one with the files.
        label: The one with the labels; None where there is none.
        classes: Names of the label numbers, in their order; None where the table does not say.
    """

    content: str
    label: str | None
    classes: list[str] | None


def columns_of(shard: Path, table: Table, wanted: Wanted) -> Columns:
    """Choose the columns of a table.

    The content: the one asked for, else the one whose feature is the wanted one, else the one that
    holds bytes; of several the one that is called as usual. The labels: the one asked for, else the
    only ClassLabel, else the one that is called as usual, if any.

    Raises:
        DataError: A column asked for is missing or holds something else, or several may be meant.
    """
    if twice := [name for name, count in Counter(table.schema.names).items() if count > 1]:
        raise DataError(f"{shard} has several columns called {twice[0]!r}: rename all but one")
    features = _features(table)
    for name in (wanted.content, wanted.label):
        if name is not None and name not in table.schema.names:
            raise DataError(f"{shard} has no column {name!r}; it has {_listing(table)}")
    content = wanted.content or _content(shard, table, features, wanted)
    if not holds_bytes(_type(table, content)):
        raise DataError(
            f"column {content!r} of {shard} holds {_type(table, content)}, not the bytes of "
            f"{wanted.what}; its columns are {_listing(table)}"
        )
    label = wanted.label or _label(shard, table, features, content)
    if label is not None and not _may_be_labels(_type(table, label)):
        raise DataError(
            f"column {label!r} of {shard} holds {_type(table, label)}, but labels are numbers or names, "
            f"one or a list in each row; its columns are {_listing(table)}"
        )
    return Columns(content, label, _names_of(features.get(label or "")))


def _features(table: Table) -> dict[str, Any]:
    """What `datasets` wrote about each column."""
    try:
        features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError):  # written by others
        return {}
    return features if isinstance(features, dict) else {}


def _content(shard: Path, table: Table, features: dict[str, Any], wanted: Wanted) -> str:
    kinds = {name: _kind(features.get(name)) for name in table.schema.names}
    fitting = [name for name in kinds if holds_bytes(_type(table, name))]
    named = [name for name in fitting if kinds[name] == wanted.feature]
    found = named or [name for name in fitting if kinds[name] not in FILES]
    endings = [ending.removeprefix(".") for ending in wanted.extensions]
    usual = [
        name for name in (*USUAL.get(wanted.feature, ()), *endings, *ANYTHING) if name in found
    ]
    if len(found) == 1 or usual:
        return (usual or found)[0]
    what = f"several columns that may hold {wanted.what}" if found else f"no {wanted.what}"
    raise DataError(
        f"{shard} has {what}: its columns are {_listing(table)}; set data.content_column to "
        "the one to read"
    )


def _label(shard: Path, table: Table, features: dict[str, Any], content: str) -> str | None:
    names = [name for name in table.schema.names if name != content]
    classes = [name for name in names if _names_of(features.get(name)) is not None]
    if len(classes) == 1:
        return classes[0]
    for name in LABELS:
        if name in (classes or names) and _may_be_labels(_type(table, name)):
            return name
    if classes:
        raise DataError(
            f"{shard} has several columns of classes: {', '.join(classes)}; set "
            "data.label_column to the one to read"
        )
    return None


def _kind(feature: Any) -> str | None:
    return feature.get("_type") if isinstance(feature, dict) else None


def _names_of(feature: Any) -> list[str] | None:
    """The names of a ClassLabel, or of a list of them, which `datasets` has written in three ways."""
    if isinstance(feature, list):
        return _names_of(feature[0]) if len(feature) == 1 else None
    if _kind(feature) in ("List", "LargeList", "Sequence"):
        return _names_of(feature.get("feature"))
    names = feature.get("names") if _kind(feature) == "ClassLabel" else None
    return [str(name) for name in names] if isinstance(names, list) else None


def _may_be_labels(kind: Any) -> bool:
    """Whether a type is that of numbers or strings, or of lists of them."""
    types = arrow().types
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        kind = kind.value_type
    if types.is_dictionary(kind):
        kind = kind.value_type
    texts = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
    return bool(texts or types.is_integer(kind) or types.is_boolean(kind) or types.is_null(kind))


def _type(table: Table, column: str) -> Any:
    return table.schema.field(column).type


def _listing(table: Table) -> str:
    return ", ".join(table.schema.names) or "none"
