"""The preset `paper` against the paper's tables, and `fast` as a valid start."""

from __future__ import annotations

import pytest

from rpo import algorithms, envs
from rpo.training import SettingsError
from rpo.training.presets import PRESETS, preset_settings
from rpo.training.program import Program
from rpo.training.settings import default_devices, resolve

SHARED = {  # Table 2
    "horizon": 32,
    "critic_passes": 16,
    "discount": 0.99,
    "td_lambda": 0.95,
    "actor_hidden_sizes": (400, 200, 100),
    "critic_hidden_sizes": (400, 200, 100),
    "critic_learning_rate": 5e-4,
    "betas": (0.7, 0.95),
    "max_gradient_norm": 0.5,
    "num_critics": 2,
}
OWN = {  # Table 2, by column
    "rpo": {
        "actor_epochs": 5,
        "actor_learning_rate": 5e-4,
        "actor_learning_rate_schedule": "exponential",
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
    "gippo": {
        "actor_learning_rate": 5e-4,
        "actor_learning_rate_schedule": "constant",
        "max_gradient_norm": 1.0,
        "ppo_epochs": 5,
        "ppo_learning_rate": 5e-4,
        "ppo_betas": (0.9, 0.999),
        "ppo_attempts": 8,
        "alpha_attempts": 8,
        "alpha_steps": 16,
        "clip": 0.2,
        "alpha_interval": 0.4,
        "alpha_factor": 1.02,
    },
}
HAND_NETWORKS = {"actor_hidden_sizes": (512, 256), "critic_hidden_sizes": (256, 256)}
# Table 3, the budgets, and Table 4: environments, steps, entropy and KL coefficient
TASKS = {
    "hopper": (1024, 20_000_000, 0.25, 0.2),
    "ant": (128, 8_000_000, 0.2, 0.25),
    "humanoid": (64, 10_000_000, 0.5, 0.5),
    "anymal": (128, 10_000_000, 0.25, 0.2),
    "hand": (64, 4_100_000, 0.001, 0.003),
}
OF_TASK = {  # what replaces Table 2's figures: networks of the simulator's authors, and Table 2
    ("rpo", "hand"): HAND_NETWORKS,
    ("shac", "hand"): HAND_NETWORKS,
    ("sapo", "hand"): HAND_NETWORKS | {"initial_temperature": 0.005},
    ("gippo", "hand"): HAND_NETWORKS | {"clip": 0.05},
}
GIPPO_TASKS = {  # Table 5: alpha and max oorr; minibatches of its authors' code
    "hopper": (0.5, 0.7, 4),
    "ant": (0.5, 0.8, 1),
    "humanoid": (5e-3, 0.1, 1),
    "anymal": (1e-3, 0.5, 1),
    "hand": (5e-4, 0.1, 1),
}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("algorithm", OWN)
def test_paper_preset_is_the_papers(algorithm: str, task: str) -> None:
    num_envs, total_steps, entropy, kl = TASKS[task]
    expected = SHARED | OWN[algorithm] | {"num_envs": num_envs, "total_steps": total_steps}
    if algorithm == "rpo":
        expected |= {"entropy_coefficient": entropy, "kl_coefficient": kl}
    if algorithm == "gippo":
        names = ("initial_alpha", "max_out_of_range", "ppo_minibatches")
        expected |= dict(zip(names, GIPPO_TASKS[task], strict=True))
    expected |= OF_TASK.get((algorithm, task), {})
    config = algorithms.config_class(algorithm)(**PRESETS[algorithm][task]["paper"])
    assert {name: getattr(config, name) for name in expected} == expected


PPO = {  # Table 2, and the number of environments and steps that all methods share
    "horizon": 32,
    "epochs": 5,
    "discount": 0.99,
    "gae_lambda": 0.95,
    "actor_hidden_sizes": (400, 200, 100),
    "critic_hidden_sizes": (400, 200, 100),
    "learning_rate": 5e-4,
    "kl_threshold": 0.008,
    "betas": (0.9, 0.999),
    "max_gradient_norm": 0.5,
}


@pytest.mark.parametrize("task", TASKS)
def test_paper_preset_of_ppo(task: str) -> None:
    num_envs, total_steps, _, _ = TASKS[task]
    expected = PPO | {"num_envs": num_envs, "total_steps": total_steps}
    expected |= HAND_NETWORKS if task == "hand" else {}
    config = algorithms.config_class("ppo")(**PRESETS["ppo"][task]["paper"])
    assert {name: getattr(config, name) for name in expected} == expected


# Appendix G.1 and Table 7; Ant and Hopper take the figures of their likes
SAC = {
    "horizon": 32,
    "warmup_steps": 32,
    "batch_size": 2048,
    "replay_capacity": 1_000_000,
    "actor_hidden_sizes": (400, 200, 100),
    "critic_hidden_sizes": (400, 200, 100),
    "critic_learning_rate": 5e-4,
    "initial_temperature": 1.0,
    "temperature_learning_rate": 5e-3,
    "max_gradient_norm": 0.5,
}
SAC_TASKS = {  # n, actor's learning rate, tau, gradient steps
    "humanoid": (3, 5e-4, 0.2, 8),
    "anymal": (10, 2e-3, 0.6, 8),
    "ant": (10, 2e-3, 0.6, 8),
    "hopper": (3, 5e-4, 0.2, 64),
    "hand": (3, 5e-4, 0.2, 8),
}


@pytest.mark.parametrize("task", TASKS)
def test_paper_preset_of_sac(task: str) -> None:
    num_envs, total_steps, _, _ = TASKS[task]
    names = ("n_step", "actor_learning_rate", "target_smoothing", "gradient_steps")
    expected = SAC | {"num_envs": num_envs, "total_steps": total_steps}
    expected |= dict(zip(names, SAC_TASKS[task], strict=True))
    expected |= HAND_NETWORKS | {"initial_temperature": 0.005} if task == "hand" else {}
    for preset in ("paper", "fast"):
        config = algorithms.config_class("sac")(**PRESETS["sac"][task][preset])
        if preset == "paper":
            assert {name: getattr(config, name) for name in expected} == expected
        reused = config.batch_size * config.gradient_steps / (config.num_envs * config.horizon)
        papers = 8 if config.num_envs == 64 else 4
        assert reused == papers if preset == "paper" else reused >= papers


def test_every_method_has_settings_for_tasks_that_are_not_shipped() -> None:
    for algorithm in algorithms.names():
        config = algorithms.config_class(algorithm)(**preset_settings(algorithm, "mine", "fast"))
        assert config.actor_hidden_sizes == (64, 64)


def test_every_method_has_both_presets_for_every_task() -> None:
    assert set(PRESETS) == set(algorithms.names())
    for algorithm, tasks in PRESETS.items():
        assert set(tasks) == set(envs.names())
        for presets in tasks.values():
            assert presets.keys() == {"fast", "best", "paper"}
            for settings in presets.values():
                algorithms.config_class(algorithm)(**settings)


@pytest.mark.parametrize("algorithm", OWN)
def test_best_is_paper_with_steadier_critics(algorithm: str) -> None:
    """And the critics of `fast` are the same for all methods that have state values."""
    for task, presets in PRESETS[algorithm].items():
        changed = {"critic": "normalized", "stagger_episodes": True}
        assert presets["best"] == presets["paper"] | changed
        assert "critic" not in presets["paper"]
        own = {"hopper": "plain", "hand": "categorical"}
        fast = changed | {"critic": own.get(task, "normalized")}
        assert {name: presets["fast"][name] for name in changed} == fast


@pytest.mark.parametrize("algorithm", ["rpo", "shac", "sapo", "gippo"])
def test_gradients_see_several_strides_of_the_anymal(algorithm: str) -> None:
    """The same for all methods that use them, with as many samples an iteration as before."""
    fast = PRESETS[algorithm]["anymal"]["fast"]
    config = algorithms.config_class(algorithm)(**fast)
    assert (config.horizon, config.num_envs, config.critic_passes) == (64, 64, 8)


def test_one_update_moves_the_hands_policy_as_far_as_rpos_epochs() -> None:
    rpo = PRESETS["rpo"]["hand"]["fast"]
    for algorithm in ("shac", "sapo"):
        fast = PRESETS[algorithm]["hand"]["fast"]
        for name in ("actor_learning_rate", "actor_learning_rate_final"):
            assert fast[name] == pytest.approx(rpo["actor_epochs"] * rpo[name])


def test_settings_go_to_their_owners() -> None:
    given = {"observe_last_action": True, "kl_coefficient": 0.7, "seeds": 3, "betas": [0.5, 0.6]}
    resolved = resolve("ant", settings=given)
    assert resolved.task_settings["observe_last_action"] is True
    assert resolved.config.kl_coefficient == 0.7
    assert resolved.config.betas == (0.5, 0.6)
    assert resolved.run_settings.seeds == 3
    assert resolved.run_settings.devices == default_devices(resolved.config.num_envs)


def test_candidates_are_the_presets_unless_given() -> None:
    ant = resolve("ant").run_settings
    assert (ant.candidates, ant.selection_start, ant.selection_share) == (10, 0.08, 0.16)
    selection = Program(resolve("ant")).selection  # the first look is at 0.25 M steps of each
    assert selection.sizes == [10, 4, 2, 1] and selection.ends[0] * 64 * 32 == 253_952
    assert resolve("ant", settings={"candidates": 2}).run_settings.candidates == 2
    for arguments in (("ant", "shac"), ("ant", "rpo", "paper")):
        assert resolve(*arguments).run_settings.candidates == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nothing",), "unknown task 'nothing'.*known: hopper, ant, anymal, humanoid, hand"),
        (("ant", "nothing"), "unknown algorithm 'nothing'; known: rpo"),
        (
            ("ant", "rpo", "nothing"),
            "unknown preset 'nothing' for rpo on ant; known: fast, best, paper",
        ),
        (("ant", "rpo", "fast", {"num_env": 3}), r"'num_env' \(did you mean num_envs\?\).*known: "),
        (("ant", "shac", "fast", {"kl_coefficient": 3}), "unknown setting 'kl_coefficient'"),
        (("ant", "rpo", "fast", {"num_envs": 0}), "num_envs is 0"),
        (("ant", "rpo", "fast", {"discount": 1.5}), "discount is 1.5"),
        (("ant", "rpo", "fast", {"num_envs": "many"}), "."),
        (("ant", "rpo", "fast", {"substeps": -1}), "substeps is -1"),
        (("ant", "rpo", "fast", {"seeds": 0}), "seeds is 0"),
        (("ant", "rpo", "fast", {"seed": -1}), "seed is -1"),
        (("ant", "rpo", "fast", {"devices": 0}), "devices is 0"),
        (("ant", "rpo", "fast", {"checkpoint_interval": -1}), "checkpoint_interval is -1"),
        (
            ("ant", "rpo", "fast", {"short_episodes": 0.5, "short_episode_steps": 1000}),
            "short_episode_steps is 1000, must be below the length of an episode, 1000",
        ),
        (("ant", "sac", "fast", {"short_episodes": 1e-3}), "of 128 environments that is none"),
        (("anymal", "rpo", "fast", {"num_envs": 3}), "short_episodes is 0.33: of 3"),
        (("none.py:Env",), "there is no file none.py"),
        ((f"{__file__}:Env",), "defines no environment class Env"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(arguments: tuple, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        resolve(*arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("task", TASKS)
def test_fast_ends_at_about_a_fifth_of_the_learning_rate_where_it_is_lowered(task) -> None:
    for algorithm in ("rpo", "shac", "sapo"):
        config = algorithms.config_class(algorithm)(**preset_settings(algorithm, task, "fast"))
        assert config.actor_learning_rate_schedule != "constant"
        # at a fifth ANYmal still falls
        shares = {"anymal": 10, "humanoid": 10} if algorithm == "rpo" else {}
        share = shares.get(task, 5)
        final = config.actor_learning_rate / share
        assert config.actor_learning_rate_final == pytest.approx(final)
