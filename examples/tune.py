"""A search for settings with Optuna: poor trainings are cut short, a killed search goes on.

python examples/tune.py runs/tune --trials 30               # the same again goes on
python examples/tune.py runs/tune --trials 30 --workers 4   # side by side, with Ray
"""

import argparse
from pathlib import Path

import numpy as np
import optuna

import rpo

TASK = f"{Path(__file__).with_name('pendulum.py')}:Pendulum"
REPORTS = 20  # per training, at which trainings are compared


def objective(trial, folder, steps):
    settings = {
        "actor_learning_rate": trial.suggest_float("actor_learning_rate", 1e-4, 1e-2, log=True),
        "entropy_coefficient": trial.suggest_float("entropy_coefficient", 1e-3, 1.0, log=True),
        "horizon": trial.suggest_categorical("horizon", [16, 32]),
    }
    told = set()

    def watch(progress):
        report = REPORTS * progress.env_steps // steps
        reached = float(np.mean(progress.metrics["episode_return"]))  # NaN before the first end
        if progress.ended or report in told or np.isnan(reached):
            return
        told.add(report)
        trial.report(reached, report)
        if trial.should_prune():
            raise optuna.TrialPruned

    new = {"run_dir": folder / f"trial-{trial.number}", "total_steps": steps, "verbose": False}
    return rpo.evaluate(rpo.train(TASK, callbacks=[watch], **new, **settings)).mean


def search(folder, trials, steps):
    folder.mkdir(parents=True, exist_ok=True)
    file = optuna.storages.journal.JournalFileBackend(str(folder / "study.log"))
    study = optuna.create_study(
        study_name="rpo",
        storage=optuna.storages.JournalStorage(file),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=REPORTS // 4),
        direction="maximize",
        load_if_exists=True,
    )
    ended = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    while len(study.get_trials(deepcopy=False, states=ended)) < trials:
        study.optimize(lambda trial: objective(trial, folder, steps), n_trials=1)
    return study


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--steps", type=int, default=200_000)
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    task = (given.folder.absolute(), given.trials, given.steps)
    if given.workers > 1:
        import ray

        ray.get([ray.remote(search).remote(*task) for _ in range(given.workers)])
    best = search(*task).best_trial
    print(f"trial {best.number}: return {best.value:.1f} with {best.params}")
