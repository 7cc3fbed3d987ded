"""The paper's tables and figures, as data: what is trained for each, and what the paper found.

A target's variants are trained on each of its tasks. `paper` holds what the paper's text prints;
where it prints nothing (several figures), `note` says what was chosen here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

Mode = Literal["stochastic", "deterministic"]


@dataclasses.dataclass(frozen=True)
class Variant:
    """One line of a figure, or one row of a table.

    Args:
        label: in legends and tables.
        algorithm: name of the method.
        settings: what differs from the preset.
        factors: settings of the preset that are multiplied, by name; `total_steps` among them.
        slug: what tells it from the plain method in the name of its run directory.
    """

    label: str
    algorithm: str
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    factors: Mapping[str, float] = dataclasses.field(default_factory=dict)
    slug: str = ""


@dataclasses.dataclass(frozen=True)
class Panel:
    """One column of a figure.

    Args:
        title: what is drawn.
        columns: of `metrics.csv`; the mean over them is drawn.
        axis: "steps", or "seconds" of training per seed.
        log: logarithmic.
        smooth: draw the running mean over 2 % of the iterations, and single seeds raw behind it.
    """

    title: str
    columns: tuple[str, ...] = ("episode_return",)
    axis: Literal["steps", "seconds"] = "steps"
    log: bool = False
    smooth: bool = False


@dataclasses.dataclass(frozen=True)
class Target:
    """A table or figure of the paper.

    Args:
        title: what it shows.
        claim: what the paper says it shows.
        tasks: the paper's.
        variants: what is compared.
        mode: how policies act in the evaluation that the table lists.
        panels: columns of the figure; each task is a row.
        paper: mean and standard deviation by task and label.
        note: what the paper leaves open.
        unstable_seeds: draw only so many seeds per line, those whose return fell furthest.
    """

    title: str
    claim: str
    tasks: tuple[str, ...]
    variants: tuple[Variant, ...]
    mode: Mode = "stochastic"
    panels: tuple[Panel, ...] = ()
    paper: Mapping[str, Mapping[str, tuple[float, float]]] = dataclasses.field(default_factory=dict)
    note: str = ""
    unstable_seeds: int = 0


@dataclasses.dataclass(frozen=True)
class Budget:
    """How much is spent.

    Args:
        preset: settings to start from.
        seeds: per cell.
        episodes: per seed and evaluation.
        steps: environment steps per seed, by task; "" means every other task. Without it they take
            the preset's.
        settings: what else differs from the preset, by method; "" means every method.
    """

    preset: str
    seeds: int
    episodes: int
    steps: Mapping[str, int]
    settings: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)


RPO = Variant("RPO", "rpo")
SAPO = Variant("SAPO", "sapo")
SHAC = Variant("SHAC", "shac")
GIPPO = Variant("GI-PPO", "gippo")
PPO = Variant("PPO", "ppo")
SAC = Variant("SAC", "sac")
ALL = (RPO, SAPO, SHAC, GIPPO, PPO, SAC)

LOCOMOTION = ("hopper", "ant", "humanoid", "anymal")
EVERY_TASK = ("hand", *LOCOMOTION)

NO_KL = Variant("RPO without KL", "rpo", {"kl_coefficient": 0.0}, slug="no-kl")
ONE_EPOCH = Variant("RPO, one epoch", "rpo", {"actor_epochs": 1}, slug="one-epoch")
# Ratios lie between 0 and about 1e26, so this keeps every sample.
NO_CLIP = Variant(
    "RPO without clipping", "rpo", {"clip_low": 1.0, "clip_high": 1e30}, slug="no-clipping"
)


def _strict(width: float) -> Variant:
    settings = {"kl_coefficient": 0.0, "clip_low": width, "clip_high": width}
    return Variant(f"clip {width}, no KL", "rpo", settings, slug=f"no-kl-clip-{width}")


def _clip(low: float, high: float) -> Variant:
    settings = {"clip_low": low, "clip_high": high}
    return Variant(f"clip {low}, {high}", "rpo", settings, slug=f"clip-{low}-{high}")


def _scaled(kl: float, entropy: float) -> Variant:
    factors = {"kl_coefficient": kl, "entropy_coefficient": entropy}
    label = f"KL x {kl:g}, entropy x {entropy:g}"
    return Variant(label, "rpo", factors=factors, slug=f"kl-x{kl:g}-entropy-x{entropy:g}")


def _sapo_exponential(rate: float) -> Variant:
    settings = {"actor_learning_rate": rate, "actor_learning_rate_schedule": "exponential"}
    return Variant(f"SAPO, exponential from {rate:g}", "sapo", settings, slug=f"exponential-{rate}")


RETURN = Panel("return (mean of last 100 episodes)")
RETURN_OVER_SECONDS = Panel("return (mean of last 100 episodes)", axis="seconds")
CURVES = (RETURN, RETURN_OVER_SECONDS)
KEPT = Panel("effective sample ratio, epochs 2 to M", ("effective_sample_ratio",))
LARGEST_RATIO = Panel(
    "largest importance ratio (epochs 2 to 4)",
    ("ratio_max_epoch_2", "ratio_max_epoch_3", "ratio_max_epoch_4"),
    log=True,
    smooth=True,
)
UPDATE_KL = Panel("KL(old, new) of an update", ("kl_update",), log=True, smooth=True)

_TABLE_1 = {  # stochastic
    "hand": {
        "PPO": (36.83, 17.50),
        "GI-PPO": (27.19, 20.58),
        "SHAC": (174.63, 57.54),
        "SAPO": (213.44, 33.95),
        "RPO": (237.55, 25.16),
    },
    "hopper": {
        "PPO": (3940.60, 129.72),
        "GI-PPO": (5512.30, 285.90),
        "SHAC": (5067.18, 299.37),
        "SAPO": (5407.79, 4.28),
        "RPO": (5525.57, 3.47),
    },
    "ant": {
        "PPO": (4146.00, 164.14),
        "GI-PPO": (7805.47, 1159.23),
        "SHAC": (8206.15, 940.46),
        "SAPO": (8718.60, 946.94),
        "RPO": (8891.04, 440.39),
    },
    "humanoid": {
        "PPO": (1665.66, 410.93),
        "GI-PPO": (7507.85, 639.52),
        "SHAC": (7744.44, 858.97),
        "SAPO": (8603.09, 402.82),
        "RPO": (8637.78, 422.17),
    },
    "anymal": {
        "PPO": (8244.86, 680.87),
        "GI-PPO": (12260.45, 3650.35),
        "SHAC": (14568.97, 652.72),
        "SAPO": (14095.90, 82.02),
        "RPO": (15674.12, 316.26),
    },
}

_TABLE_6 = {  # deterministic
    "hand": {
        "PPO": (37.18, 12.76),
        "GI-PPO": (36.78, 20.90),
        "SHAC": (175.13, 55.10),
        "SAPO": (225.17, 27.66),
        "RPO": (239.70, 19.77),
    },
    "hopper": {
        "PPO": (3977.85, 159.95),
        "GI-PPO": (5514.00, 285.64),
        "SHAC": (5068.42, 299.73),
        "SAPO": (5478.12, 4.45),
        "RPO": (5584.86, 6.41),
    },
    "ant": {
        "PPO": (4339.51, 745.48),
        "GI-PPO": (7812.05, 1165.10),
        "SHAC": (8205.95, 940.18),
        "SAPO": (9101.36, 996.14),
        "RPO": (9072.29, 448.57),
    },
    "humanoid": {
        "PPO": (2140.61, 529.07),
        "GI-PPO": (7576.97, 621.58),
        "SHAC": (7722.20, 742.96),
        "SAPO": (8676.25, 420.62),
        "RPO": (8805.61, 361.59),
    },
    "anymal": {
        "PPO": (10257.12, 2247.05),
        "GI-PPO": (12247.36, 3552.17),
        "SHAC": (14560.59, 655.30),
        "SAPO": (14783.27, 53.01),
        "RPO": (15872.61, 461.15),
    },
}

TARGETS: dict[str, Target] = {
    "table1": Target(
        "Final return, stochastic",
        "RPO reaches the highest mean return on every task (12 seeds, 128 episodes each).",
        EVERY_TASK,
        ALL,
        panels=CURVES,
        paper=_TABLE_1,
    ),
    "table6": Target(
        "Final return, deterministic",
        "RPO reaches the highest mean return on every task but Ant, where SAPO is ahead.",
        EVERY_TASK,
        ALL,
        mode="deterministic",
        panels=CURVES,
        paper=_TABLE_6,
    ),
    "figure1": Target(
        "SAPO's return falls where its policy jumps",
        "Spikes of the KL divergence between successive policies coincide with sudden falls of the "
        "return (one seed of SAPO on Humanoid).",
        ("humanoid",),
        (SAPO,),
        panels=(RETURN, UPDATE_KL),
        unstable_seeds=1,
        note="The seed whose return fell furthest is drawn.",
    ),
    "figure3": Target(
        "Training curves",
        "RPO learns fastest on every task, and far faster than PPO.",
        EVERY_TASK,
        ALL,
        panels=CURVES,
        paper=_TABLE_1,
    ),
    "figure4": Target(
        "What RPO's components contribute",
        "Without KL regularisation RPO reaches 8000 about two million steps later; with one epoch "
        "it is slower and ends lower; without clipping it is much worse on Hand Reorient.",
        ("humanoid", "hand"),
        (RPO, NO_KL, ONE_EPOCH, NO_CLIP),
        panels=(*CURVES, LARGEST_RATIO),
        note="The paper's text names the task of the last part only; every part is run on both.",
    ),
    "figure5": Target(
        "Wall-clock time",
        "RPO with 10 M steps takes 81 minutes and ends above SHAC with 40 M steps and 313 minutes "
        "(RTX 4090); at 10 M steps each, RPO takes 80 minutes and SHAC 76.",
        ("anymal",),
        (RPO, Variant("SHAC, 4 x steps", "shac", factors={"total_steps": 4}, slug="4x-steps")),
        panels=(RETURN_OVER_SECONDS, RETURN),
    ),
    "figure6": Target(
        "Learning-rate schedule",
        "RPO stays ahead of SAPO with RPO's exponential schedule, from 5e-4 or from 2e-3.",
        ("anymal",),
        (RPO, SAPO, _sapo_exponential(5e-4), _sapo_exponential(2e-3)),
        panels=CURVES,
        note="The paper's text does not name the task; SAPO as it is stands beside for reference.",
    ),
    "figure7": Target(
        "RPO's effective sample ratio",
        "At least about 70 % of the samples survive clipping in epochs 2 to 5; the share rises to "
        "nearly 100 % at the end of training.",
        ("humanoid",),
        (RPO,),
        panels=(KEPT, RETURN),
    ),
    "figure8": Target(
        "RPO against SAC",
        "RPO is ahead of SAC throughout.",
        ("anymal", "humanoid"),
        (RPO, SAC),
        panels=CURVES,
    ),
    "figure9": Target(
        "RPO against PPO with ten times the samples",
        "PPO stays below RPO even with 200 M steps on Hopper and 100 M on ANYmal.",
        ("hopper", "anymal"),
        (RPO, Variant("PPO, 10 x steps", "ppo", factors={"total_steps": 10}, slug="10x-steps")),
        panels=CURVES,
    ),
    "figure10": Target(
        "Hopper without KL regularisation",
        "Without KL regularisation RPO learns noticeably more slowly.",
        ("hopper",),
        (RPO, NO_KL),
        panels=(*CURVES, LARGEST_RATIO),
    ),
    "figure11": Target(
        "Sensitivity to clipping, KL and entropy",
        "Stricter and looser clipping and a range of coefficients give comparable results.",
        ("anymal",),
        (
            RPO,
            _clip(0.4, 0.5),
            _clip(0.6, 0.75),
            _clip(0.9, 2.0),
            _scaled(0.5, 1),
            _scaled(2, 1),
            _scaled(1, 0.5),
            _scaled(1, 2),
        ),
        panels=CURVES,
        note="The paper's text does not print the values it tried.",
    ),
    "figure12": Target(
        "Strict clipping instead of KL regularisation",
        "Even with small clipping ranges updates are unstable without KL regularisation: largest "
        "ratios are high, and few samples survive clipping early in training.",
        ("humanoid",),
        (RPO, _strict(0.1), _strict(0.2)),
        panels=(RETURN, LARGEST_RATIO, KEPT),
    ),
    "figure13": Target(
        "Unstable seeds of SAPO and SHAC",
        "Some seeds of SAPO and SHAC on Humanoid lose much of their return during training.",
        ("humanoid",),
        (SAPO, SHAC),
        panels=(RETURN, UPDATE_KL),
        unstable_seeds=3,
        note="The paper's figures 13 and 14; the seeds whose return fell furthest are drawn.",
    ),
}

_SMALL = {  # steps that take moments
    "num_envs": 8,
    "actor_hidden_sizes": (16, 16),
    "critic_hidden_sizes": (16, 16),
}

BUDGETS: dict[str, Budget] = {
    "smoke": Budget(
        preset="fast",
        seeds=2,
        episodes=2,
        steps={"": 2_048},
        settings={"": _SMALL, "sac": {"replay_capacity": 4_096, "batch_size": 64}},
    ),
    "short": Budget(
        preset="fast",
        seeds=3,
        episodes=128,
        # Humanoid costs seven times as much per step as Ant.
        steps={"humanoid": 2_000_000, "": 4_000_000},
    ),
    "paper": Budget(
        preset="paper",
        seeds=12,
        episodes=128,
        steps={  # as far as the paper's training curves go
            "hand": 4_100_000,
            "hopper": 20_000_000,
            "ant": 8_000_000,
            "humanoid": 10_000_000,
            "anymal": 10_000_000,
        },
    ),
}
