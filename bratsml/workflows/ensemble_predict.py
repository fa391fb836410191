"""An ensemble across runs on new cases, as its file says."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bratsml.data.cases import CaseFiles
from bratsml.data.meta import CaseMeta
from bratsml.data.preprocess import prepare_case
from bratsml.data.recipes import RecipeConfig
from bratsml.ensembling.combine import combine
from bratsml.ensembling.ensemble_file import ENSEMBLE_FILE, EnsembleFile
from bratsml.ensembling.volumes import MemberVolumes, Probabilities
from bratsml.errors import ConfigError
from bratsml.inference.postprocess import Regions, Step, postprocess
from bratsml.labels import LabelMap, LabelScheme, get_scheme
from bratsml.tracking.runs import find_run, read_artifact
from bratsml.tracking.store import project_root
from bratsml.workflows.ensemble_members import fold_mean, region_probabilities, trained_run
from bratsml.workflows.trained import TrainedModels


@dataclass(frozen=True)
class TrainedEnsemble:
    """The runs of an ensemble file, found again; each is the mean of its folds."""

    file: EnsembleFile
    members: tuple[TrainedModels, ...]
    scheme: LabelScheme
    steps: tuple[Step, ...]

    @classmethod
    def load(cls, name: str) -> TrainedEnsemble:
        """From an ensemble file, or from the run that wrote one.

        Raises:
            ConfigError: The file is something else, or a run does not predict its regions.
            TrackingError: A run is not in the store, or has no networks.
        """
        file = _read(name)
        scheme = get_scheme(file.label_scheme)
        scheme.require_regions(file.regions)
        members = tuple(trained_run(member.run) for member in file.members)
        for member, models in zip(file.members, members, strict=True):
            missing = [r for r in file.regions if r not in models.output.regions]
            if missing:
                raise ConfigError(
                    f"{member.name} does not predict region {missing[0]} of the ensemble; "
                    "write the ensemble's file anew"
                )
        return cls(file, members, scheme, file.postprocess)

    def postprocessed(self, path: str) -> TrainedEnsemble:
        """The same ensemble with the post-processing of a file; unchanged without one.

        Raises:
            ConfigError: The file is missing or holds something else.
        """
        if not path:
            return self
        return replace(self, steps=self.members[0].postprocessed(path).experiment.postprocess)

    def segment(self, case: CaseFiles) -> tuple[LabelMap, CaseMeta]:
        """Label map of a case on its own grid, and what is known of that grid.

        Prepared once per recipe; one run's probabilities are in memory at a time.

        Raises:
            DataError: The case cannot be used.
        """
        meta, said = self._together(case)
        masks = postprocess(
            said > 0.5, said, Regions.of(self.scheme, self.file.regions), self.steps
        )
        return self.scheme.label_map(masks, self.file.regions), meta

    def _together(self, case: CaseFiles) -> tuple[CaseMeta, Probabilities]:
        """What the runs say together ``(R, X, Y, Z)`` on the case's own grid."""
        volumes: MemberVolumes | None = None
        recipe: RecipeConfig | None = None
        try:
            for models in self.members:
                if models.experiment.data.recipe != recipe:
                    recipe = models.experiment.data.recipe
                    prepared = prepare_case(case, recipe, models.scheme, with_label=False)
                    image = np.array(prepared.image, dtype=np.float32)
                    meta = prepared.meta
                if volumes is None:
                    volumes = MemberVolumes(len(self.file.regions), meta.original_shape)
                whole = fold_mean(models, image, meta)
                volumes.add(region_probabilities(models.output, whole, self.file.regions))
            assert volumes is not None  # a file names members
            said = combine(volumes, self.file.combine, weights=self.file.weights)
            return meta, volumes.paste(said)
        finally:
            if volumes is not None:
                volumes.close()


def _read(name: str) -> EnsembleFile:
    if Path(name).is_file():
        return EnsembleFile.read(Path(name))
    if name.endswith((".yaml", ".yml")):
        raise ConfigError(f"{name} is not there; give an {ENSEMBLE_FILE} or the run that wrote it")
    root = project_root()
    return read_artifact(find_run(name, root), ENSEMBLE_FILE, root, EnsembleFile.read)
