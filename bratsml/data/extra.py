"""Further cases that are only ever trained on: synthetic ones, other cohorts ("fold -1").

They never reach validation, test or any table of scores, since the store's own case ids, which all
of that is made from, do not name them.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from bratsml.data.folds import Split, SplitConfig, make_split
from bratsml.data.meta import CaseMeta
from bratsml.data.split import listed
from bratsml.data.store import Store
from bratsml.errors import ConfigError
from bratsml.geometry import Array
from bratsml.labels import get_scheme


class StoreWithExtra(Store):
    """A store beside another one, whose cases can be read but are not among ``case_ids``.

    Everything else, the hash included, is the main store's.

    Args:
        main: The dataset itself.
        extra: Cases that are only trained on; label values of another scheme with the same tissues
            are translated.

    Raises:
        ConfigError: The two were preprocessed differently, hold a patient or a scan in common, or
            label other tissues.
    """

    def __init__(self, main: Store, extra: Store) -> None:
        super().__init__(main.path, main.index, main.case_ids)
        extra.require_recipe(main.recipe)
        if extra.index.recipe_version != main.index.recipe_version:
            raise ConfigError(
                f"store {extra.path.name} was made by another version of the recipe than "
                f"{main.path.name}; preprocess it again"
            )
        _require_apart(main, extra)
        self.extra = extra
        self._translation = _translation(extra.label_scheme, main.label_scheme)

    @cached_property
    def _extra_ids(self) -> frozenset[str]:
        return frozenset(self.extra.case_ids)

    def meta(self, case_id: str) -> CaseMeta:
        """What is known of a case of either store."""
        return self.extra.meta(case_id) if case_id in self._extra_ids else super().meta(case_id)

    def image(self, case_id: str) -> np.memmap[Any, np.dtype[Any]]:
        """See :meth:`Store.image`; a case of either store."""
        return self.extra.image(case_id) if case_id in self._extra_ids else super().image(case_id)

    def label(self, case_id: str) -> np.memmap[Any, np.dtype[np.uint8]] | None:
        """See :meth:`Store.label`; values in the main store's scheme, translated ones in memory."""
        if case_id not in self._extra_ids:
            return super().label(case_id)
        stored = self.extra.label(case_id)
        if stored is None or self._translation is None:
            return stored
        return self.translated(case_id, stored).view(np.memmap)

    def holder_of(self, case_id: str) -> Store:
        """The store whose folder a case lies in."""
        return self.extra if case_id in self._extra_ids else super().holder_of(case_id)

    def translated(self, case_id: str, label: Array) -> Array:
        """See :meth:`Store.translated`; only extra cases can have values of another scheme."""
        if case_id not in self._extra_ids or self._translation is None:
            return label
        return self._translation[np.asarray(label)]


def extra_of(store: Store) -> Store | None:
    """The store of cases that are only trained on, when there is one."""
    return store.extra if isinstance(store, StoreWithExtra) else None


def split_of(store: Store, config: SplitConfig) -> Split:
    """The split of a store's own cases; further ones are trained on in every fold.

    Raises:
        ConfigError: See :func:`bratsml.data.folds.make_split`.
    """
    split = make_split(store.metas(), config)
    extra = extra_of(store)
    if extra is None:
        return split
    return replace(split, training_only=(*split.training_only, *extra.case_ids))


def _require_apart(main: Store, extra: Store) -> None:
    """Refuse patients, and scans under other names, that both stores hold."""
    patients = {meta.patient for meta in main.metas()}
    both = sorted({meta.patient for meta in extra.metas()} & patients)
    if both:
        raise ConfigError(
            f"the extra data holds patients of the data itself ({listed(both)}), so folds would be "
            "scored on patients that were trained on; remove them from the extra folder"
        )
    id_of = {meta.source_hash: meta.id for meta in main.metas() if meta.source_hash}
    same = [f"{m.id} is {id_of[m.source_hash]}" for m in extra.metas() if m.source_hash in id_of]
    if same:
        raise ConfigError(
            f"the extra data holds scans of the data itself under other names ({listed(same)}); "
            "remove them from the extra folder"
        )


def _translation(theirs: str, ours: str) -> npt.NDArray[np.uint8] | None:
    """Table from one scheme's values to the other's; ``None`` when they mean the same."""
    if theirs == ours:
        return None
    source, wanted = get_scheme(theirs).tissues, get_scheme(ours).tissues
    if source.keys() != wanted.keys():
        raise ConfigError(
            f"the extra data is labelled by scheme {theirs} ({', '.join(source)}), the data itself "
            f"by {ours} ({', '.join(wanted)}); give extra data with labels of the same tissues"
        )
    table = np.zeros(256, dtype=np.uint8)
    for tissue, value in source.items():
        table[value] = wanted[tissue]
    return table
