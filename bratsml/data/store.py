"""The store of preprocessed cases: arrays that are read by memory map, and what is known of each.

Layout: ``store.json``; ``cases/<id>/image.npy``, ``label.npy``, ``case.json`` and, where the stored
grid cannot give it back, ``reference.npy``; ``rejected.csv``. A store without ``store.json`` is
unfinished.
"""

from __future__ import annotations

import functools
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from filelock import FileLock, Timeout
from pydantic import ValidationError
from rich.console import Console

from bratsml.config import Config
from bratsml.data.cases import MODALITIES
from bratsml.data.meta import CaseMeta, Intensity
from bratsml.data.recipes import RecipeConfig
from bratsml.errors import ConfigError, DataError, ResourceError
from bratsml.files import (
    fsync_folder,
    open_array,
    printable,
    read_json,
    read_text,
    sha256_of_json,
    write_atomically,
    write_text,
)
from bratsml.geometry import Array

__all__ = ["CaseMeta", "Intensity", "Store", "StoreIndex", "read_case_meta", "write_case"]

STORE_FORMAT = 1
STORE_FILE = "store.json"
REJECTED_FILE = "rejected.csv"
CASES_FOLDER = "cases"
IMAGE_FILE, LABEL_FILE, REFERENCE_FILE, META_FILE = (
    "image.npy",
    "label.npy",
    "reference.npy",
    "case.json",
)
_LOCK_FILE = ".lock"
_REDO = "run `bratsml preprocess` again"


class StoreIndex(Config):
    """Content of ``store.json``: the recipe, the label scheme and each case's key."""

    format: int
    recipe: RecipeConfig
    recipe_version: int
    label_scheme: str
    modalities: tuple[str, ...]
    cases: dict[str, str]
    rejected: int = 0


class Store:
    """Read access to a preprocessed dataset; cheap to open and to hand to worker processes.

    Attributes:
        path: Its folder.
        recipe: What was done to the cases.
        label_scheme: Name of the scheme of every label map.
        case_ids: In ascending order.
        dataset_hash: Changes whenever any stored array would.
    """

    def __init__(self, path: Path, index: StoreIndex, case_ids: Iterable[str]) -> None:
        self.path = path
        self.index = index
        self.recipe = index.recipe
        self.label_scheme = index.label_scheme
        self.case_ids = tuple(sorted(case_ids))
        self._metas: dict[str, CaseMeta] = {}

    @classmethod
    def open(cls, path: Path) -> Store:
        """Open the store in a folder.

        Raises:
            DataError: Not a store, unfinished, damaged, or of another format.
        """
        try:
            index = StoreIndex.model_validate(read_json(path / STORE_FILE))
        except (OSError, UnicodeDecodeError) as error:
            reason = "is not a finished store"
            raise DataError(path.name, STORE_FILE, reason, _REDO) from error
        except (ValueError, ValidationError) as error:
            raise DataError(
                path.name, STORE_FILE, "is damaged", f"delete it and {_REDO}"
            ) from error
        if index.format != STORE_FORMAT or index.modalities != MODALITIES:
            reason = f"has format {index.format}, this version reads {STORE_FORMAT}"
            raise DataError(path.name, STORE_FILE, reason, _REDO)
        return cls(path, index, index.cases)

    @functools.cached_property
    def dataset_hash(self) -> str:
        """SHA-256 over the recipe, the label scheme and the keys of this store's cases."""
        tree = self.index.tree()
        tree["cases"] = {case_id: self.index.cases[case_id] for case_id in self.case_ids}
        del tree["rejected"]
        return sha256_of_json(tree)

    def subset(self, case_ids: Iterable[str]) -> Store:
        """The same store seen through some of its cases.

        Raises:
            DataError: Naming the first case that is not there.
        """
        chosen = list(case_ids)
        for case_id in chosen:
            self._require(case_id)
        return Store(self.path, self.index, chosen)

    def meta(self, case_id: str) -> CaseMeta:
        """What is known of a case (kept in memory after the first call)."""
        if case_id not in self._metas:
            self._require(case_id)
            self._metas[case_id] = read_case_meta(self.path, case_id)
        return self._metas[case_id]

    def metas(self) -> list[CaseMeta]:
        """:meth:`meta` of every case, in the order of :attr:`case_ids`."""
        return [self.meta(case_id) for case_id in self.case_ids]

    def image(self, case_id: str) -> np.memmap[Any, np.dtype[Any]]:
        """Memory map of shape ``(4, X, Y, Z)``, modalities in the order of ``MODALITIES``."""
        return self._map(case_id, IMAGE_FILE)

    def label(self, case_id: str) -> np.memmap[Any, np.dtype[np.uint8]] | None:
        """Memory map of the label map ``(X, Y, Z)``, or ``None`` when the case has none."""
        return self._map(case_id, LABEL_FILE) if self.meta(case_id).has_label else None

    def holder_of(self, case_id: str) -> Store:
        """The store whose folder a case lies in: this one."""
        self._require(case_id)
        return self

    def translated(self, case_id: str, label: Array) -> Array:
        """Label values as the case's :meth:`holder_of` has them, in :attr:`label_scheme`."""
        return label

    def reference(self, case_id: str) -> npt.NDArray[np.uint8] | None:
        """The label map in the case's own grid, exactly as in its file, or ``None``.

        Scores are taken against this one, whatever the recipe did to the stored label map.
        """
        meta = self.meta(case_id)
        stored = self.label(case_id)
        if stored is None:
            return None
        if (self.path / CASES_FOLDER / case_id / REFERENCE_FILE).is_file():
            return self._map(case_id, REFERENCE_FILE)
        restored = meta.reorientation.undo(meta.crop_box.paste(stored, meta.ras_shape))
        return restored.astype(np.uint8, copy=False)

    def require_recipe(self, recipe: RecipeConfig) -> None:
        """Refuse to go on with a store made by another recipe.

        Raises:
            ConfigError: Naming both.
        """
        if recipe != self.recipe:
            raise ConfigError(
                f"store {self.path.name} was made by recipe {self.recipe.tree()}, the experiment "
                f"asks for {recipe.tree()}; give the raw cases or change data.recipe"
            )

    def _map(self, case_id: str, name: str) -> np.memmap[Any, np.dtype[Any]]:
        self._require(case_id)
        try:
            return open_array(self.path / CASES_FOLDER / case_id / name)
        except (OSError, ValueError) as error:
            raise DataError(case_id, name, "is missing or damaged in the store", _REDO) from error

    def _require(self, case_id: str) -> None:
        if case_id not in self.index.cases:
            raise DataError(case_id, "", f"is not in store {self.path.name}", "check the case id")


def read_case_meta(path: Path, case_id: str) -> CaseMeta:
    """The ``case.json`` of one case of the store at ``path``.

    Raises:
        DataError: Missing or damaged.
    """
    try:
        text = read_text(path / CASES_FOLDER / case_id / META_FILE)
        return CaseMeta.model_validate_json(text)
    except (OSError, ValueError) as error:
        raise DataError(case_id, META_FILE, "is missing or damaged in the store", _REDO) from error


def write_case(path: Path, meta: CaseMeta, arrays: Mapping[str, Array]) -> None:
    """Put one case into the store at ``path``, replacing an older one; all of it or nothing.

    Args:
        arrays: File name to array.
    """
    folder = path / CASES_FOLDER / meta.id
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{meta.id}."))
    try:
        for name, array in arrays.items():
            write_atomically(temporary / name, functools.partial(_save_array, array))
        write_text(temporary / META_FILE, meta.model_dump_json() + "\n")  # thousands of indices
        temporary.chmod(0o755)
        if folder.exists():
            retired = temporary.with_name(f"{temporary.name}.old")
            folder.rename(retired)
            temporary.rename(folder)
            shutil.rmtree(retired, ignore_errors=True)
        else:
            temporary.rename(folder)
        fsync_folder(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _save_array(array: Array, stream: IO[bytes]) -> None:
    """Images and label maps come in C order; a reference keeps its file's, which is cheaper."""
    np.save(stream, array, allow_pickle=False)


def remove_leftovers(path: Path) -> None:
    """Delete half-written cases of an interrupted run; only while no other process writes."""
    for leftover in (path / CASES_FOLDER).glob(".*"):
        shutil.rmtree(leftover, ignore_errors=True)


@contextmanager
def locked_for_writing(path: Path) -> Iterator[None]:
    """Let one process at a time write to a store; the others wait and find the work done.

    Raises:
        ResourceError: The folder cannot be made or written.
    """
    lock = FileLock(path / _LOCK_FILE)
    try:
        path.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            waiting = f"{printable(path.name)}: waiting for the process that prepares it"
            Console(stderr=True, markup=False).print(waiting)
            lock.acquire()
    except OSError as error:
        reason = error.strerror or "no access"
        raise ResourceError(
            f"{path} cannot be written ({reason}); choose another folder"
        ) from error
    try:
        yield
    finally:
        lock.release()
