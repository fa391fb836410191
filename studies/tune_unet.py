"""UNet with Adam: learning rate, weight decay and both betas, each trial a real training.

    python studies/tune_unet.py                                  # phantoms, minutes on a CPU
    python studies/tune_unet.py --data FOLDER --trials 40 --folds 2

The learning rates span 1e-5 to 1e-1 and hold the default; within a narrow range far from it (0.05
to 0.1) a search only picks the least bad divergence.
"""

from bratsml.tuning.settings import PrunerConfig, SamplerConfig
from bratsml.tuning.space import LogUniform, Space, Uniform
from bratsml.workflows.study import main
from bratsml.workflows.study_plan import Budget, Smaller, StudyPlan

STUDY = StudyPlan(
    name="tune_unet",
    base="unet",
    space=Space(
        dimensions={
            "optim.lr": LogUniform(low=1e-5, high=1e-1),
            "optim.weight_decay": LogUniform(low=1e-6, high=1e-2),
            "optim.betas[0]": Uniform(low=0.7, high=0.99),
            "optim.betas[1]": Uniform(low=0.95, high=0.9999),
        }
    ),
    sampler=SamplerConfig(kind="tpe", startup_trials=8),
    pruner=PrunerConfig(kind="median", startup_trials=4, warmup_epochs=5),
    budget=Budget(trials=40, vram_gb=8.0, reruns=3, seeds=2),
    folds=1,
    phantom=Smaller(
        changes={"train": {"epochs": 4, "validate_every": 1}, "inference": {"overlap": 0.0}},
        budget=Budget(trials=6, vram_gb=8.0, reruns=2),
        pruner=PrunerConfig(kind="median", startup_trials=3, warmup_epochs=1),
    ),
)

if __name__ == "__main__":
    main(STUDY)
