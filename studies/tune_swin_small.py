"""SwinUNETR on a handful of real cases and a CPU: learning rate and width only, within the hour.

    python studies/tune_swin_small.py --data FOLDER

So few cases cannot tell good settings from lucky ones; the verdict at the end says so where it is
so. What came out on six cases: docs/log.md.
"""

from bratsml.tuning.settings import PrunerConfig, SamplerConfig
from bratsml.tuning.space import Choice, LogUniform, Space
from bratsml.workflows.study import main
from bratsml.workflows.study_plan import Budget, Smaller, StudyPlan

STUDY = StudyPlan(
    name="tune_swin_small",
    base="real_cpu_swinunetr",
    space=Space(
        dimensions={
            "optim.lr": LogUniform(low=1e-4, high=1e-2),
            "model.feature_size": Choice(values=(12, 24)),
        }
    ),
    sampler=SamplerConfig(kind="tpe", startup_trials=3),
    pruner=PrunerConfig(kind="median", startup_trials=3),
    budget=Budget(trials=4, vram_gb=8.0, reruns=1, seeds=1),
    folds=1,
    phantom=Smaller(
        changes={"loader": {"samples_per_epoch": 4, "patch": [64, 32, 32]}, "split": {"folds": 9}},
        budget=Budget(trials=2, vram_gb=8.0, reruns=1),
    ),
)

if __name__ == "__main__":
    main(STUDY)
