"""What the data sets share that read files below a root, or samples of shards, by splits."""

from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Generic

from lightning.pytorch.utilities import rank_zero_warn

from datamodules.base import SPLITS, LabelledData
from datamodules.cache import is_given
from datamodules.errors import DataError
from datamodules.filelist import UNLABELLED, FileList, Files, leave_out, read_names
from datamodules.shards import hub
from datamodules.shards.index import Shards
from datamodules.shards.row import Wanted


class RootedData(LabelledData, Generic[Files]):
    """Files in folders or lists below a root, or samples in shards.

    Where root is `hf://datasets/OWNER/NAME[@REVISION]`, or a folder with shards (`train-000000.tar`,
    `train-00000-of-00001.parquet`, `data-00000-of-00001.arrow`; also in a folder `data`), these are the
    data set: a tar file's labels are its `cls` or `json` members or the folders of its keys, a table's
    one of its columns.

    Args:
        root: Folder of the data set, or `hf://datasets/OWNER/NAME[@REVISION]`.
        batch_size: Training samples in a batch on each process.
        exclude: JSON file of `python -m tome_lightning scan`, or the `bad_files.json` of a run: its
            bad files are left out. A relative path starts from the working folder.
        config_name: Which of the configurations that the data set's README names; null for its usual one.
        content_column: Column that holds the files, or in a tar the ending, such as `jpg`; null for the
            one there is.
        label_column: Column that holds the labels, or in a tar the field of the `json` member; null for
            the usual names.
        **loading: The other options of `datamodules.base.LabelledData`, with their defaults.
    """

    what: ClassVar[str] = "files"
    feature: ClassVar[str] = ""  # what `datasets` calls a column of them
    usual_lists: ClassVar[tuple[str, ...]] = ()  # what is looked for in root where none is named

    def __init__(
        self,
        root: str,
        batch_size: int,
        exclude: str | None = None,
        config_name: str | None = None,
        content_column: str | None = None,
        label_column: str | None = None,
        **loading: Any,
    ) -> None:
        super().__init__(batch_size, **loading)
        self.root = root if hub.is_hub(root) else str(Path(root).expanduser())
        self.exclude = exclude
        self._shard_options = (content_column, label_column, config_name)
        self._shards: Shards | None = None
        self.lists: dict[str, Any] = {}  # of a subclass that takes some
        self._files: dict[str, Files] = {}
        self._class_names: list[str] | None = None
        self._predicting = False

    @property
    @abstractmethod
    def extensions(self) -> tuple[str, ...]:
        """Endings of the files, in lower case."""

    @abstractmethod
    def listed(self, split: str) -> Files:
        """The files of train, val or test from folders or lists."""

    @abstractmethod
    def of_shards(self, split: str) -> Files:
        """The samples of train, val or test from shards."""

    @property
    def shards(self) -> Shards:
        """The shards of the root, of which there may be none."""
        if self._shards is None:
            content, label, config = self._shard_options
            wanted = Wanted(self.what, self.feature, self.extensions, content, label)
            self._shards = Shards(self.root, wanted, config, self.asked)
        return self._shards

    @property
    def in_shards(self) -> bool:
        """Whether the data set is in shards: not where there is a list of files."""
        if hub.is_hub(self.root):
            return True
        named = [name for name in self.lists.values() if name]
        names = [one for name in named for one in ([name] if isinstance(name, str) else name)]
        names += self.usual_lists
        return bool(self.shards.splits) and not any(
            Path(self.root, name).is_file() for name in names
        )

    @property
    def folder(self) -> str:
        """The folder that the paths of its files start from: root, or where the Hub's files lie."""
        return str(self.shards.folder) if hub.is_hub(self.root) else self.root

    def prepare_data(self) -> None:
        """Fetch a data set of the Hub, or make the files of one that is made, once a machine."""
        if hub.is_hub(self.root):
            stage = None if self.trainer is None else self.trainer.state.fn
            self.shards.fetch(SPLITS.get(stage, SPLITS[None]))
        elif not is_given(Path(self.root)):
            self.make_files()

    def make_files(self) -> None:
        """Write the files where the data set is one that is made on first use (`makes_files`)."""

    def make_unless_given(self, stage: str | None) -> None:
        """Write the files unless others are there, in shards or to predict."""
        if not self.in_shards and (stage != "predict" or not is_given(Path(self.root))):
            self.make_files()

    def files(self, split: str) -> Files:
        """The files of train, val or test, without those of the exclude list."""
        if split not in self._files:
            files = self.of_shards(split) if self.in_shards else self.listed(split)
            self._files[split] = leave_out(split, files, self.exclude, self.what)
        return self._files[split]

    def check(self, stage: str | None = None) -> None:
        """List the files of the splits that `stage` needs, or their samples in shards; opens none.

        Args:
            stage: fit, validate, test, predict; None is all of them.

        Raises:
            DataError: Names the folder, the list and its line, or the shard, and the way out.
        """
        self.shards.fetch(SPLITS[stage])
        if self.in_shards:
            self._check_shards(stage)
        else:
            self.check_files(stage)

    @abstractmethod
    def check_files(self, stage: str | None) -> None:
        """Refuse folders and lists that are missing or do not fit together; opens no file of them."""

    def _check_shards(self, stage: str | None) -> None:
        if self._predicting != (stage == "predict"):  # which takes samples without labels
            self._predicting, self._files = stage == "predict", {}
        for split in SPLITS[stage]:
            self.files(split)
        if self.num_classes < 2:
            raise DataError(f"{self.root} has one class only ({self.class_names[0]})")

    def listed_split(self, split: str) -> str:
        """The split whose shards serve as this one: val for test, where test has no labels or is none."""
        source = self.shards.split_of(split)
        bare = not self._predicting and not self.shards.contents(source).labels
        if split == "test" and bare and "val" in self.shards.splits:
            rank_zero_warn(f"{self.root}: the shards of test have no labels: testing on val")
            return "val"
        return source

    @property
    def naming_split(self) -> str:
        """The split whose labels say what the classes are, where nothing else does."""
        return "train" if "train" in self.shards.splits else self.shards.split_of("val")


class SingleLabelled(RootedData[FileList]):
    """A data set of files with one class each; a base of `ImageNet` and `Kinetics400`.

    Attributes:
        class_list: Text file with one class name a line; None where the data say what the classes are.
        same_class: What class names are compared by, so that other spellings are the same.
    """

    class_list: str | None = None
    same_class: Callable[[str], str] = staticmethod(str)

    @property
    def class_names(self) -> list[str]:
        """Class names in the order of the class index."""
        if self._class_names is None:
            in_shards = self.in_shards
            found = self.class_names_of_shards() if in_shards else self.find_class_names()
            self._class_names = found
        return self._class_names

    @abstractmethod
    def find_class_names(self) -> list[str]:
        """Class names by folders, lists or a checkpoint."""

    def class_names_of_shards(self) -> list[str]:
        """Class names by `class_list`, a checkpoint, or what the shards say."""
        path = None if self.class_list is None else Path(self.folder, self.class_list)
        if path is not None and (self.known_classes is None or path.is_file()):
            return read_names(path)
        if self.known_classes is not None:
            return self.known_classes
        named = self.shards.names is not None or self.shards.contents(self.naming_split).labels
        if self._predicting and not named and self.head_classes is not None:
            return [str(label) for label in range(self.head_classes)]
        return self.shards.class_names(self.naming_split)

    def of_shards(self, split: str) -> FileList:
        """The samples of train, val or test from shards."""
        source = self.listed_split(split)
        files = self.shards.single(source, self.class_names, self.same_class)
        if files.unlabelled and not self._predicting:
            raise DataError(
                f"{self.root}: the samples of {source} have no labels ({UNLABELLED} each); set "
                "data.label_column to the column, or the field of the json member, that holds them"
            )
        missing = int((files.class_counts(self.num_classes) == 0).sum())
        if missing and not self._predicting:
            rank_zero_warn(
                f"{self.root}, {source}: {missing} of {self.num_classes} classes have no {self.what}"
            )
        return files
