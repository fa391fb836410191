"""Synthetic patients as real NIfTI files, to try, test and measure everything without patient data.

A set is a function of its :class:`PhantomConfig`: the same settings give the same bytes under the
same versions of the numerical libraries. Beside the cases lies ``phantom.json`` with the settings
and the hash of every file, by which a complete set is recognised and an interrupted one finished.
"""

from __future__ import annotations

import gzip
import io
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import nibabel as nib
import numpy as np
from pydantic import Field as Setting

from bratsml.config import Config
from bratsml.data.cases import DECATHLON_CHANNELS, MODALITIES
from bratsml.data.phantom_anatomy import (
    ENHANCING,
    NECROSIS,
    OEDEMA,
    grow_tumour,
    make_brain,
    plan_tumour,
)
from bratsml.data.phantom_scan import scan
from bratsml.errors import ConfigError
from bratsml.files import read_json, sha256_of, write_bytes, write_json
from bratsml.geometry import Affine, Array, Shape
from bratsml.labels import get_scheme

LEDGER = "phantom.json"
FORMAT = 2
"""Raised when the same settings begin to give other files, so that old sets are rewritten."""

_FIRST_NUMBER = 90000  # far above the numbers of real cases
_FIRST_DECATHLON_NUMBER = 900
_GZIP_LEVEL = 1  # noise hardly compresses; higher levels only take longer
_RIM_MM = (2.4, 3.4)
_SECOND_VISIT_GROWTH = 1.15
_SUFFIXES = {
    "brats2021": {"t1n": "_t1", "t1c": "_t1ce", "t2w": "_t2", "t2f": "_flair", "label": "_seg"},
    "brats2023": {"t1n": "-t1n", "t1c": "-t1c", "t2w": "-t2w", "t2f": "-t2f", "label": "-seg"},
}

Side = Annotated[int, Setting(ge=16, le=256)]
Layout = Literal["brats2021", "brats2023", "decathlon"]


class PhantomConfig(Config):
    """Which synthetic patients to write.

    Attributes:
        cases: Number of cases, second visits included.
        shape: Voxels along X, Y, Z, of 1 mm; below 32 a side the tumours are mere specks.
        seed: Case ``i`` depends on the seed, ``i`` and the settings below only.
        layout: File names and label values of BraTS 2021, BraTS 2023 or the Decathlon.
        without_enhancing_share: Share of patients whose tumour has a small core and no ET.
        second_visit_share: Share of patients seen twice; ``brats2023`` only, as the names of the
            other layouts cannot tell visits.
    """

    cases: int = Setting(default=30, ge=1, le=9999)
    shape: tuple[Side, Side, Side] = (56, 56, 48)
    seed: int = Setting(default=0, ge=0)
    layout: Layout = "brats2021"
    without_enhancing_share: float = Setting(default=0.12, ge=0, le=1)
    second_visit_share: float = Setting(default=0.25, ge=0, le=1)


@dataclass(frozen=True)
class PhantomCase:
    """One case to write.

    Attributes:
        id: As the layout spells it.
        patient: Number of the patient, from 0.
        visit: 0, or 1 for the second.
        enhancing: Whether the tumour has an enhancing rim.
    """

    id: str
    patient: int
    visit: int
    enhancing: bool


def write_phantoms(out: Path, config: PhantomConfig) -> list[str]:
    """Write a set of synthetic patients and return its case ids, in order.

    Files that are there and have the recorded hash are kept; a complete set is not touched. Files
    of an earlier set that the settings no longer ask for are removed. Hidden files are ignored.

    Raises:
        ConfigError: ``out`` is a file, or holds files that are not of a phantom set.
        ResourceError: The folder cannot be written.
    """
    settings = {"format": FORMAT, "config": config.tree()}
    cases = list(phantom_cases(config))
    case_ids = [case.id for case in cases]
    wanted = [name for case in cases for name in _file_names(case, config.layout)]
    wanted += ["dataset.json"] if config.layout == "decathlon" else []
    ledger = _read_ledger(out)
    present = _checked_content(out, ledger)
    same = all(ledger.get(key) == value for key, value in settings.items())
    files = {name: _verified(out, name, ledger["files"]) if same else "" for name in wanted}
    if all(files.values()) and present <= {LEDGER, *wanted}:
        return case_ids
    _remove(out, present - {LEDGER, *wanted})

    def record() -> None:
        write_json(out / LEDGER, {**settings, "files": files})

    def write(name: str, content: bytes) -> None:
        write_bytes(out / name, content)
        files[name] = sha256_of(out / name)

    record()  # every name is announced before its file appears: a crash leaves none unexplained
    for case in cases:
        names = _file_names(case, config.layout)
        if not all(files[name] for name in names):
            for name, content in zip(names, _file_contents(case, config), strict=True):
                write(name, content)
            record()
    if config.layout == "decathlon":
        write("dataset.json", _decathlon_description(case_ids))
        record()
    return case_ids


def phantom_cases(config: PhantomConfig) -> Iterator[PhantomCase]:
    """The cases of a set; shares are spread evenly over the patients."""
    visit_share = config.second_visit_share if config.layout == "brats2023" else 0.0
    written = patient = 0
    while written < config.cases:
        enhancing = not _is_chosen(patient, config.without_enhancing_share)
        for visit in range(2 if _is_chosen(patient, visit_share) else 1):
            if written < config.cases:
                case_id = _case_id(config.layout, patient, visit)
                yield PhantomCase(case_id, patient, visit, enhancing)
                written += 1
        patient += 1


def make_case(
    case: PhantomCase, config: PhantomConfig
) -> tuple[dict[str, Array], np.ndarray[Any, np.dtype[np.uint8]]]:
    """Volumes by modality (int16, ``(X, Y, Z)``) and the label map in the values of the layout.

    A second visit has the same brain and a grown tumour, scanned anew.
    """
    # separate streams: no draw for one thing shifts the draws for another
    brain = make_brain(np.random.default_rng([config.seed, case.patient, 0]), config.shape)
    plan = plan_tumour(
        np.random.default_rng([config.seed, case.patient, 1]),
        brain,
        enhancing=case.enhancing,
        rim_mm=_RIM_MM,
    )
    tissue = grow_tumour(plan, brain, _SECOND_VISIT_GROWTH**case.visit)
    rng = np.random.default_rng([config.seed, case.patient, 2, case.visit])
    images: dict[str, Array] = dict(scan(rng, brain, tissue))
    values = get_scheme(config.layout).tissues
    label = np.zeros_like(tissue)
    for value, name in ((NECROSIS, "NCR"), (OEDEMA, "ED"), (ENHANCING, "ET")):
        label[tissue == value] = values[name]
    return images, label


def phantom_affine(shape: Shape) -> Affine:
    """The BraTS grid: axes towards left, posterior, superior, 1 mm, origin ``(0, ny - 1, 0)``."""
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    affine[1, 3] = shape[1] - 1
    return affine


def _is_chosen(patient: int, share: float) -> bool:
    """Whether a patient is among an evenly spread share, whatever the number of patients."""
    return math.floor((patient + 1) * share + 1e-9) > math.floor(patient * share + 1e-9)


def _case_id(layout: Layout, patient: int, visit: int) -> str:
    if layout == "decathlon":
        return f"BRATS_{_FIRST_DECATHLON_NUMBER + patient}"
    if layout == "brats2023":
        return f"BraTS-GLI-{_FIRST_NUMBER + patient}-{visit:03d}"
    return f"BraTS2021_{_FIRST_NUMBER + patient}"


def _file_names(case: PhantomCase, layout: Layout) -> list[str]:
    """Images in the order of the contents, the label map last."""
    if layout == "decathlon":
        return [f"{folder}/{case.id}.nii.gz" for folder in ("imagesTr", "labelsTr")]
    suffixes = _SUFFIXES[layout]
    return [f"{case.id}/{case.id}{suffixes[use]}.nii.gz" for use in (*MODALITIES, "label")]


def _file_contents(case: PhantomCase, config: PhantomConfig) -> list[bytes]:
    images, label = make_case(case, config)
    arrays: list[Array] = list(images.values())
    if config.layout == "decathlon":
        order = sorted(DECATHLON_CHANNELS, key=DECATHLON_CHANNELS.__getitem__)
        arrays = [np.stack([images[modality] for modality in order], axis=-1)]
    affine = phantom_affine(config.shape)
    return [_nifti(array, affine) for array in (*arrays, label)]


def _nifti(array: Array, affine: Affine) -> bytes:
    """A zipped NIfTI file without time stamp."""
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    buffer = io.BytesIO()
    image.to_file_map({"image": nib.FileHolder(fileobj=buffer)})
    return gzip.compress(buffer.getvalue(), _GZIP_LEVEL, mtime=0)


def _decathlon_description(case_ids: list[str]) -> bytes:
    """The content of ``dataset.json``, with the keys of the Medical Segmentation Decathlon."""
    names = {"t2f": "FLAIR", "t1n": "T1w", "t1c": "T1gd", "t2w": "T2w"}
    by_channel = sorted(DECATHLON_CHANNELS.items(), key=lambda entry: entry[1])
    description = {
        "name": "BRATS",
        "description": "Synthetic gliomas",
        "tensorImageSize": "4D",
        "modality": {str(channel): names[modality] for modality, channel in by_channel},
        "labels": {
            "0": "background",
            "1": "edema",
            "2": "non-enhancing tumor",
            "3": "enhancing tumour",
        },
        "numTraining": len(case_ids),
        "numTest": 0,
        "training": [
            {"image": f"./imagesTr/{case_id}.nii.gz", "label": f"./labelsTr/{case_id}.nii.gz"}
            for case_id in case_ids
        ],
        "test": [],
    }
    return (json.dumps(description, indent=1) + "\n").encode()


def _read_ledger(out: Path) -> dict[str, Any]:
    """The record of an earlier set; without files when there is none that can be read."""
    try:
        ledger = read_json(out / LEDGER)
    except (OSError, ValueError):
        ledger = None
    usable = isinstance(ledger, dict) and isinstance(ledger.get("files"), dict)
    return ledger if usable else {"files": {}}


def _checked_content(out: Path, ledger: Mapping[str, Any]) -> set[str]:
    """Names of the visible files below ``out``; refuses those that no phantom set left there."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file; choose another folder for the phantom set")
    places = (path.relative_to(out) for path in out.rglob("*") if not path.is_dir())
    names = {
        place.as_posix() for place in places if not any(p.startswith(".") for p in place.parts)
    }
    foreign = sorted(names - {LEDGER, *ledger["files"]})
    if foreign:
        raise ConfigError(
            f"{out} holds {len(foreign)} files that are not of a phantom set "
            f"(such as {Path(foreign[0]).name}); choose another folder or move them away"
        )
    return names


def _verified(out: Path, name: str, recorded: Mapping[str, str]) -> str:
    """The recorded hash if the file still has it, otherwise empty."""
    path, digest = out / name, recorded.get(name, "")
    return digest if digest and path.is_file() and sha256_of(path) == digest else ""


def _remove(out: Path, names: set[str]) -> None:
    """Delete files of an earlier set, and the folders they leave empty."""
    for name in names:
        path = out / name
        path.unlink(missing_ok=True)
        if path.parent != out and not any(path.parent.iterdir()):
            path.parent.rmdir()
