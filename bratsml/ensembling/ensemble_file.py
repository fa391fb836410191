"""The small file that says how trained runs are combined, for new cases."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import Field, model_validator

from bratsml.config import Config, build_config, read_yaml, to_yaml
from bratsml.ensembling.combine import Combination, Weights
from bratsml.errors import ConfigError
from bratsml.inference.postprocess import Step, require_known_regions

ENSEMBLE_FILE = "ensemble.yaml"
SUM_TOLERANCE = 1e-3
"""Rounded weights need not sum to one exactly."""


class EnsembleMember(Config):
    """One cross-validation, which stands for the mean of its folds.

    Attributes:
        run: Id of the run.
        name: Shown to the user.
        weights: Region to weight.
    """

    run: str
    name: str
    weights: dict[str, float]


class EnsembleFile(Config):
    """How runs are combined.

    Attributes:
        combine: See :mod:`bratsml.ensembling.combine`; weights count for ``fitted`` alone.
        label_scheme: Of the label maps that are written.
        regions: In the order of the stack.
        postprocess: Steps applied to what the runs say together.
        members: In the order in which they are combined.
    """

    combine: Combination
    label_scheme: str
    regions: tuple[str, ...]
    members: tuple[EnsembleMember, ...] = Field(min_length=1)
    postprocess: tuple[Step, ...] = ()

    @model_validator(mode="after")
    def _weights_are_shares(self) -> EnsembleFile:
        for region in self.regions:
            for member in self.members:
                if region not in member.weights:
                    raise ValueError(f"{member.name} has no weight for region {region}")
                if member.weights[region] < 0:
                    raise ValueError(f"{member.name} has a negative weight for region {region}")
            total = sum(member.weights[region] for member in self.members)
            if abs(total - 1) > SUM_TOLERANCE:
                raise ValueError(f"weights of region {region} sum to {total:.4g}, not to 1")
        try:
            require_known_regions(self.postprocess, self.regions)
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return self

    @classmethod
    def read(cls, path: Path) -> EnsembleFile:
        """Read a file that ``ensemble --runs`` wrote.

        Raises:
            ConfigError: It cannot be read or is something else; says what.
        """
        return build_config(cls, read_yaml(path), path.name)

    def text(self, header: str) -> str:
        """As YAML below a comment.

        Args:
            header: Lines without ``#``.
        """
        comment = "".join(f"# {line}\n" for line in header.splitlines())
        return comment + to_yaml(self)

    @property
    def weights(self) -> Weights:
        """Shape ``(M, R)``, summing to one over members."""
        found = np.array([[member.weights[r] for r in self.regions] for member in self.members])
        return found / found.sum(axis=0)

    @classmethod
    def members_of(
        cls, runs: Sequence[str], names: Sequence[str], regions: Sequence[str], weights: Weights
    ) -> tuple[EnsembleMember, ...]:
        """Members with weights ``(M, R)``, rounded to six decimals."""
        return tuple(
            EnsembleMember(
                run=run,
                name=name,
                weights={r: round(float(w), 6) for r, w in zip(regions, row, strict=True)},
            )
            for run, name, row in zip(runs, names, weights, strict=True)
        )
