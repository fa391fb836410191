"""SwinUNETR under 8 GB: learning rate, width, attention, patch, recomputing, regularisation.

    python studies/tune_swin.py                                  # phantoms, minutes on a CPU
    python studies/tune_swin.py --data FOLDER --trials 60 --hours 48 --vram-gb 8 --workers 2

The same command goes on where it stopped. To make a study of your own, copy this file.
"""

from bratsml.tuning.settings import PrunerConfig, SamplerConfig
from bratsml.tuning.space import Choice, LogUniform, Space, Uniform
from bratsml.workflows.study import main
from bratsml.workflows.study_plan import Budget, Smaller, StudyPlan

STUDY = StudyPlan(
    name="tune_swin",
    base="swinunetr_96_f24",
    space=Space(
        dimensions={
            "optim.lr": LogUniform(low=1e-5, high=1e-2),
            "optim.weight_decay": LogUniform(low=1e-6, high=1e-1),
            "model.feature_size": Choice(values=(12, 24, 36, 48)),
            "model.attention": Choice(values=("auto", "reference", "sdpa")),
            "model.checkpointing": Choice(values=(False, True)),
            "model.drop_path": Uniform(low=0.0, high=0.3),
            "loader.patch": Choice(values=([64, 64, 64], [96, 96, 96], [128, 128, 128])),
        }
    ),
    sampler=SamplerConfig(kind="tpe", startup_trials=10),
    pruner=PrunerConfig(kind="hyperband", warmup_epochs=5),
    budget=Budget(trials=60, vram_gb=8.0, reruns=3, seeds=1),
    folds=1,
    phantom=Smaller(
        changes={
            "train": {"epochs": 2, "validate_every": 1},
            "loader": {"samples_per_epoch": 4, "batch_size": 1},
            "inference": {"overlap": 0.0},
            "split": {"folds": 9},
        },
        space={
            "model.feature_size": Choice(values=(12, 24, 48)),  # 48 is above the budget
            "loader.patch": Choice(values=([64, 32, 32],)),
        },
        budget=Budget(trials=4, vram_gb=1.0, reruns=1),
    ),
)

if __name__ == "__main__":
    main(STUDY)
