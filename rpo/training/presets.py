"""Settings per algorithm and task, as data; what is not listed keeps its config class's default.

`paper` holds the figures of the paper's Tables 2 to 5; `best` is `paper` with critics in running
units and episodes of all ages; `fast` is tuned for wall-clock time on two CPU cores. `CUSTOM`
serves environments that are not shipped.
"""

from __future__ import annotations

from typing import Any

from rpo.errors import SettingsError, unknown

Settings = dict[str, Any]

_PAPER_COMMON: Settings = {  # Table 2: what all methods have in common
    "horizon": 32,
    "discount": 0.99,
    "actor_hidden_sizes": (400, 200, 100),
    "critic_hidden_sizes": (400, 200, 100),
}

_PAPER_SHARED: Settings = _PAPER_COMMON | {  # Table 2: all first-order methods
    "td_lambda": 0.95,
    "num_critics": 2,
    "critic_learning_rate": 5e-4,
    "critic_passes": 16,
    "critic_minibatches": 4,
    "betas": (0.7, 0.95),
    "max_gradient_norm": 0.5,
}

_PAPER_ALGORITHM: dict[str, Settings] = {  # Table 2
    "rpo": {
        "actor_epochs": 5,
        "actor_learning_rate": 5e-4,
        "actor_learning_rate_schedule": "exponential",
        "target_value": "mean",
        "clip_low": 0.8,
        "clip_high": 1.0,
    },
    "shac": {"actor_learning_rate": 2e-3, "actor_learning_rate_schedule": "linear"},
    "sapo": {
        "actor_learning_rate": 2e-3,
        "actor_learning_rate_schedule": "linear",
        "temperature_learning_rate": 5e-3,
        "initial_temperature": 1.0,
    },
    # 6 epochs, one of them the regression; one rate for the actor. PPO's betas, the attempts and
    # the minibatches (here, and the hopper's below) are those of its authors' code.
    "gippo": {
        "actor_learning_rate": 5e-4,
        "actor_learning_rate_schedule": "constant",
        "ppo_learning_rate": 5e-4,
        "ppo_betas": (0.9, 0.999),
        "max_gradient_norm": 1.0,
        "ppo_epochs": 5,
        "ppo_minibatches": 1,
        "ppo_attempts": 8,
        "alpha_attempts": 8,
    },
}

_PAPER_MODEL_FREE: dict[str, Settings] = {
    # Table 2. It does not give the number of minibatches: 4, as for the other methods' critics.
    "ppo": {
        "gae_lambda": 0.95,
        "epochs": 5,
        "minibatches": 4,
        "learning_rate": 5e-4,
        "kl_threshold": 0.008,
        "betas": (0.9, 0.999),
        "max_gradient_norm": 0.5,
    },
    # Appendix G.1. It does not give the optimiser: that of the other methods.
    "sac": {
        "warmup_steps": 32,
        "replay_capacity": 1_000_000,
        "batch_size": 2048,
        "gradient_steps": 8,
        "critic_learning_rate": 5e-4,
        "initial_temperature": 1.0,
        "temperature_learning_rate": 5e-3,
        "betas": (0.7, 0.95),
        "max_gradient_norm": 0.5,
    },
}

_PAPER_TASK: dict[str, Settings] = {  # Table 3, and the budgets of the training curves
    "hopper": {"num_envs": 1024, "total_steps": 20_000_000},
    "ant": {"num_envs": 128, "total_steps": 8_000_000},
    "anymal": {"num_envs": 128, "total_steps": 10_000_000},
    "humanoid": {"num_envs": 64, "total_steps": 10_000_000},
    # Networks and budget of the simulator's authors, whose settings the paper takes over.
    "hand": {
        "num_envs": 64,
        "total_steps": 4_100_000,
        "actor_hidden_sizes": (512, 256),
        "critic_hidden_sizes": (256, 256),
    },
}

_PAPER_RPO_TASK: dict[str, Settings] = {  # Table 4
    "hopper": {"entropy_coefficient": 0.25, "kl_coefficient": 0.2},
    "ant": {"entropy_coefficient": 0.2, "kl_coefficient": 0.25},
    "anymal": {"entropy_coefficient": 0.25, "kl_coefficient": 0.2},
    "humanoid": {"entropy_coefficient": 0.5, "kl_coefficient": 0.5},
    "hand": {"entropy_coefficient": 0.001, "kl_coefficient": 0.003},
}

_PAPER_SAPO_TASK: dict[str, Settings] = {"hand": {"initial_temperature": 0.005}}  # Table 2

_PAPER_GIPPO: Settings = {"clip": 0.2, "alpha_interval": 0.4, "alpha_factor": 1.02}
_PAPER_GIPPO_TASK: dict[str, Settings] = {  # Table 5
    "hopper": _PAPER_GIPPO
    | {"initial_alpha": 0.5, "max_out_of_range": 0.7}
    | {"ppo_minibatches": 4},
    "ant": _PAPER_GIPPO | {"initial_alpha": 0.5, "max_out_of_range": 0.8},
    "anymal": _PAPER_GIPPO | {"initial_alpha": 1e-3, "max_out_of_range": 0.5},
    "humanoid": _PAPER_GIPPO | {"initial_alpha": 5e-3, "max_out_of_range": 0.1},
    "hand": _PAPER_GIPPO | {"initial_alpha": 5e-4, "max_out_of_range": 0.1, "clip": 0.05},
}

_SAC_HUMANOID: Settings = {"n_step": 3, "actor_learning_rate": 5e-4, "target_smoothing": 0.2}
_SAC_ANYMAL: Settings = {"n_step": 10, "actor_learning_rate": 2e-3, "target_smoothing": 0.6}
_PAPER_SAC_TASK: dict[str, Settings] = {  # Table 7 has the humanoid and ANYmal only
    "humanoid": _SAC_HUMANOID,
    "anymal": _SAC_ANYMAL,
    "ant": _SAC_ANYMAL,  # four legs, too
    # It falls like the humanoid; as many samples are learned per sample collected as on the ant.
    "hopper": _SAC_HUMANOID | {"gradient_steps": 64},
    # Dense reward, falls end it; as small a temperature as SAPO's.
    "hand": _SAC_HUMANOID | {"initial_temperature": 0.005},
}

_STEADY: Settings = {"stagger_episodes": True}
_STEADY_SHARED: Settings = _STEADY | {"critic": "normalized"}

# On a CPU the learner costs more than the physics.
_FAST_COMMON: Settings = _STEADY | {
    "actor_hidden_sizes": (128, 64, 64),
    "critic_hidden_sizes": (128, 64, 64),
}

_FAST_SHARED: Settings = _FAST_COMMON | _STEADY_SHARED | {"critic_passes": 4}

_FAST_ALGORITHM: dict[str, Settings] = {
    # Short runs lose by letting the rate go to nothing; a fifth of it is left for all three.
    "rpo": {"actor_learning_rate": 1e-3, "actor_learning_rate_final": 2e-4},
    "shac": {"actor_learning_rate_final": 4e-4},
    "sapo": {"actor_learning_rate_final": 4e-4},
    # With a quarter of its environments, the paper's rates move the hopper's policy by 2 to 12 nats
    # an iteration (these: 1 to 3), and most attempts at PPO are undone. Of minibatches the first
    # epoch's own steps can spoil the loss that the last one is compared with: one seed diverged.
    "gippo": {
        "actor_learning_rate": 2e-4,
        "ppo_learning_rate": 1e-4,
        "ppo_minibatches": 1,
    },
    # A quarter of the memory, and of every checkpoint. Twice the gradient steps of `paper`: with 8
    # the ant still stands around after a million steps, and 32 take three quarters of the time.
    "sac": {"replay_capacity": 250_000, "gradient_steps": 16},
}

# Robots that run for long forget how to begin; now and then one policy falls (results/tuning).
_STEADY_RUNNING: Settings = {
    "symmetric": True,
    "short_episodes": 0.33,
    "short_episode_steps": 64,
    "policy_average": 0.97,
}
_FAST_TASK: dict[str, Settings] = {  # what all methods have in common, for they are compared
    "hopper": {"num_envs": 256, "total_steps": 5_000_000},
    "ant": {"symmetric": True, "total_steps": 4_000_000},
    "anymal": _STEADY_RUNNING,
    "humanoid": _STEADY_RUNNING,
    # Its physics costs more than the learner: it keeps the paper's networks.
    "hand": {
        "policy_average": 0.97,
        "total_steps": 2_000_000,
        "actor_hidden_sizes": (512, 256),
        "critic_hidden_sizes": (256, 256),
    },
}
_FAST_FIRST_ORDER_TASK: dict[str, Settings] = {
    # Twice the updates per step, and an actor that does not stay in slow gaits.
    "ant": {"num_envs": 64, "actor_hidden_sizes": (400, 200, 100)},
    # A stride takes 12 to 20 steps: gradients that see several lead to a faster gait, and critics
    # that are taught twice as often to a faster one still. Left and right alike learn sooner and
    # end slower (results/tuning; tried with RPO, and with SHAC, which falls less without).
    "anymal": {"num_envs": 64, "horizon": 64, "critic_passes": 8, "symmetric": False},
    # It bears no noise of the usual size, and rare bonuses of 125 give gradients of up to thousands
    # of medians (results/tuning, results/hand).
    "hand": {
        "critic_passes": 8,
        "critic": "categorical",
        "max_action_gradient_ratio": 3.0,
        "initial_std": 0.1,
    },
    # Action gradients have heavy tails: a few environments would decide for all (results/tuning).
    "humanoid": {"max_action_gradient_ratio": 3.0},
    # Critics that are right early lead it into a slower gait (results/tuning).
    "hopper": {"critic": "plain"},
}
# As far in an iteration as RPO's five epochs at its rate.
_FAST_ONE_UPDATE_TASK: dict[str, Settings] = {
    "hand": {"actor_learning_rate": 5e-4, "actor_learning_rate_final": 1e-4},
}
_FAST_RPO_TASK: dict[str, Settings] = {
    "hopper": {"total_steps": 14_800_000},  # of all candidates together
    "anymal": {
        "actor_learning_rate_hold": 0.3,
        "actor_learning_rate_final": 1e-4,
        "total_steps": 5_000_000,
    },
    "humanoid": {
        "actor_epochs": 10,
        "actor_learning_rate_hold": 0.3,
        "actor_learning_rate_final": 1e-4,
        "total_steps": 2_000_000,
    },
    # Its rewards and action gradients are a tenth of the walkers': with their rate, and the paper's
    # coefficient of KL, actions saturate before anything is learned (results/tuning).
    "hand": {
        "actor_learning_rate": 1e-4,
        "actor_learning_rate_final": 2e-5,
        "actor_learning_rate_hold": 0.3,
        "kl_coefficient": 0.2,
        "entropy_coefficient": 0.002,
        "total_steps": 1_500_000,
    },
    # Gaits are found at the full rate; with it until the end, a policy may fall now and then.
    # Ten epochs bring a small actor as far per step as five a large one, in half the time.
    "ant": {
        "actor_hidden_sizes": (128, 64, 64),
        "actor_epochs": 10,
        "actor_learning_rate_hold": 0.35,
        "total_steps": 6_000_000,  # of all candidates together
    },
}


def _paper(algorithm: str, task: str) -> Settings:
    if algorithm in _PAPER_MODEL_FREE:
        own = _PAPER_SAC_TASK[task] if algorithm == "sac" else {}
        return _PAPER_COMMON | _PAPER_MODEL_FREE[algorithm] | _PAPER_TASK[task] | own
    of_method = {"rpo": _PAPER_RPO_TASK, "gippo": _PAPER_GIPPO_TASK, "sapo": _PAPER_SAPO_TASK}
    own = of_method.get(algorithm, {}).get(task, {})
    return _PAPER_SHARED | _PAPER_ALGORITHM[algorithm] | _PAPER_TASK[task] | own


def _best(algorithm: str, task: str) -> Settings:
    steady = _STEADY if algorithm in _PAPER_MODEL_FREE else _STEADY_SHARED
    return _paper(algorithm, task) | steady


def _fast(algorithm: str, task: str) -> Settings:
    own = _FAST_ALGORITHM.get(algorithm, {}) | _FAST_TASK.get(task, {})
    shared = _FAST_COMMON
    if algorithm in _PAPER_ALGORITHM:
        shared, own = _FAST_SHARED, own | _FAST_FIRST_ORDER_TASK.get(task, {})
    if algorithm in ("shac", "sapo"):
        own |= _FAST_ONE_UPDATE_TASK.get(task, {})
    if algorithm == "rpo":
        own |= _FAST_RPO_TASK.get(task, {})
    return _paper(algorithm, task) | shared | own


PRESETS: dict[str, dict[str, dict[str, Settings]]] = {
    algorithm: {
        task: {
            "fast": _fast(algorithm, task),
            "best": _best(algorithm, task),
            "paper": _paper(algorithm, task),
        }
        for task in _PAPER_TASK
    }
    for algorithm in (*_PAPER_ALGORITHM, *_PAPER_MODEL_FREE)
}
"""PRESETS[algorithm][task][preset]: fields of the algorithm's config."""

CUSTOM: Settings = {
    "num_envs": 64,
    "total_steps": 200_000,
    "actor_hidden_sizes": (64, 64),
    "critic_hidden_sizes": (64, 64),
}
"""The preset `fast` of environments that are not shipped."""

CUSTOM_FIRST_ORDER: Settings = CUSTOM | {"critic_passes": 8, "critic": "normalized"}
"""The same for first-order methods."""

CUSTOM_SAC: Settings = CUSTOM | _SAC_HUMANOID | {"replay_capacity": 100_000}
"""The same for SAC."""

DEFAULT_PRESET = "fast"


SELECTION: dict[tuple[str, str], dict[str, Settings]] = {
    # One training in three finds the best gait. At 0.24 M steps it is among the better half.
    ("rpo", "fast"): {
        "ant": {
            "candidates": 10,
            "selection_start": 0.08,
            "selection_share": 0.16,
            "selection_keep": 0.4,
        },
        # Nearly half of the trainings find a slower gait, and of four all may. From 1.2 M steps on
        # the mean reward tells well enough to drop four of eight, at 1.5 M and 1.9 M the others;
        # returns tell the opposite then: the slower gait falls less (results/tuning).
        "hopper": {
            "candidates": 8,
            "selection_start": 0.24,
            "selection_share": 0.38,
            "selection_score": "reward",
        },
    },
}
"""SELECTION[algorithm, preset][task]: how many trainings per seed start side by side and when they
are dropped (fields of `RunSettings`); one training if not listed.

They belong to no method, and comparisons of methods do without them."""


def preset_selection(algorithm: str, task: str, preset: str) -> Settings:
    """Settings of the candidates of a preset."""
    return dict(SELECTION.get((algorithm, preset), {}).get(task, {}))


def preset_settings(algorithm: str, task: str, preset: str) -> Settings:
    """Settings of a preset.

    Args:
        algorithm: name of the method.
        task: name of the task; one that is not shipped has only the preset `fast`.
        preset: its name.

    Raises:
        SettingsError: if the task has no such preset.
    """
    custom = CUSTOM_FIRST_ORDER if algorithm in _PAPER_ALGORITHM else CUSTOM
    custom = CUSTOM_SAC if algorithm == "sac" else custom
    known = PRESETS.get(algorithm, {}).get(task, {DEFAULT_PRESET: custom})
    if preset not in known:
        raise SettingsError(unknown("preset", preset, known, f"for {algorithm} on {task}"))
    return dict(known[preset])
