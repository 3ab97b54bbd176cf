"""Files to predict that nobody has labelled: what lies in a plain folder, without a list of it."""

import os
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_info

from datamodules.errors import DataError
from datamodules.filelist import class_folders
from datamodules.walking import LeftOut, files_below


def plain_folder(root: Path, extensions: tuple[str, ...]) -> Path | None:
    """Where the files of a data set lie that has no class folders to predict.

    Args:
        root: Folder of the data set.
        extensions: Endings of its files, in lower case.

    Returns:
        `root/test` if it has files and no class folders; `root` if `train`, `val` and `test` have no
        class folders either, or are not there; None where the class folders of a split are what is there.

    Raises:
        DataError: A folder cannot be listed.
    """
    splits = [root / name for name in ("test", "val", "train")]
    labelled = [folder for folder in splits if folder.is_dir() and class_folders(folder)]
    plain_test = splits[0].is_dir() and splits[0] not in labelled
    if plain_test and any(True for _ in files_below(splits[0], extensions)):
        return splits[0]
    return None if labelled else root


def files_to_predict(root: Path, folder: Path, extensions: tuple[str, ...], what: str) -> list[str]:
    """Every file below a folder, in alphabetical order: paths from `root` on, absolute elsewhere.

    Args:
        root: Folder of the data set.
        folder: Where to look, in all folders below as well.
        extensions: Endings of the files wanted, in lower case.
        what: What messages call them, such as `images`.

    Raises:
        DataError: There is none, or a folder cannot be listed.
    """
    left_out = LeftOut()
    # by folder and then by name, as paths are compared: no character comes before NUL
    found = sorted(
        files_below(folder, extensions, left_out), key=lambda path: path.replace(os.sep, "\0")
    )
    why = left_out.describe()
    if not found:
        raise DataError(
            f"{folder} holds no {what} to predict; {why or 'it is empty'}. Set data.root to a folder of "
            "them, or data.test_list to a list of paths"
        )
    rank_zero_info(
        f"predict: {folder} has neither a list nor class folders, so all {len(found):,} {what} below it "
        f"are predicted{'; ' if why else ''}{why}"
    )
    start = os.path.join(root, "")
    return [path.removeprefix(start) for path in found]
