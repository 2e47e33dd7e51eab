"""A stored noise schedule as a solver reads it: the one place where a folder's scheduler configuration becomes ours.

A key that is not stored means what its class's default means, and not what the default of the solver's class does.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# diffusers' classes that a folder may store, and the spacing that each means where none is stored (None: has no such
# key, so the solver's own). What is stochastic is no sampler here, but its noise schedule is one like any other.
CLASSES: Mapping[str, str | None] = {
    "DDIMScheduler": "leading", "DDPMScheduler": "leading", "PNDMScheduler": "leading",
    "DPMSolverMultistepScheduler": "linspace", "DPMSolverSinglestepScheduler": None,
    "UniPCMultistepScheduler": "linspace", "DEISMultistepScheduler": "linspace", "EulerDiscreteScheduler": "linspace",
    "EulerAncestralDiscreteScheduler": "linspace", "HeunDiscreteScheduler": "linspace",
    "KDPM2DiscreteScheduler": "linspace", "KDPM2AncestralDiscreteScheduler": "linspace",
    "LMSDiscreteScheduler": "linspace",
}  # fmt: skip
SPACINGS = ("leading", "trailing", "linspace")
OWN_LEVELS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas")
CHOICES: Mapping[str, tuple[Any, ...]] = {  # of keys that decide what a solver does, where they are stored
    "timestep_spacing": SPACINGS, "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2"),
    "prediction_type": ("epsilon", "v_prediction", "sample"), "timestep_type": ("discrete",),
    "final_sigmas_type": ("zero", "sigma_min"), "interpolation_type": ("linear", "log_linear"),
    "solver_type": ("midpoint", "heun", "bh1", "bh2", "logrho"), "solver_order": (1, 2, 3),
    "thresholding": (False, None),  # latents do not survive it, and no pixel model here was trained with it
    "use_flow_sigmas": (False, None),  # flow matching is no diffusion as it is solved here
    **dict.fromkeys(OWN_LEVELS, (False, True, None)),
}  # fmt: skip
DARK = -80.0  # the logarithm of alpha_bar below which single precision has no signal left to solve for
NO_CLIPPING = {"clip_sample": False}  # diffusers' DDIM clips unless it is told not to

# What is asked of a sampler that is given no model: Stable Diffusion's and LDM's way of choosing timesteps.
USUAL: Mapping[str, Any] = {"timestep_spacing": "leading", "steps_offset": 1}


@dataclass(frozen=True, kw_only=True)
class Stored:
    """What a stored configuration says of itself, without torch. Made by `of`, which refuses what nobody here can read.

    values: the keys that are stored, without those that diffusers filled in. kind: the class that stored them, empty
    where it is not known. steps: of training. spacing: None where the class has no such key.
    """

    values: Mapping[str, Any]
    kind: str
    steps: int
    spacing: str | None
    offset: int
    prediction: str

    @staticmethod
    def of(config: Mapping[str, Any]) -> "Stored":
        """`config`: a scheduler_config.json, or the configuration of a diffusers scheduler. Raises ValueError."""
        filled_in = set(config.get("_use_default_values", ()))
        values = {key: value for key, value in config.items() if key not in filled_in and not key.startswith("_")}
        values = {key: value for key, value in values.items() if value is not None or key not in OWN_LEVELS}
        kind = str(config.get("_class_name", ""))
        if kind and kind not in CLASSES:
            _refuse("_class_name", kind, f"samplers here read the noise schedules of {', '.join(CLASSES)}")
        found = Stored(
            values=values, kind=kind, steps=values.get("num_train_timesteps", 1000),
            spacing=values.get("timestep_spacing", CLASSES.get(kind)), offset=values.get("steps_offset", 0),
            prediction=str(values.get("prediction_type", "epsilon")),
        )  # fmt: skip
        found._check()
        return found

    def _check(self) -> None:
        for key, value, least in (("num_train_timesteps", self.steps, 1), ("steps_offset", self.offset, 0)):
            if type(value) is not int or value < least:
                _refuse(key, value, f"a whole number of at least {least} is needed")
        for key, known in CHOICES.items():
            if key in self.values and self.values[key] not in known:
                _refuse(key, self.values[key], f"samplers here take {' or '.join(map(str, known))}")
        betas = self.values.get("trained_betas")
        if betas is not None and (not isinstance(betas, list | tuple) or len(betas) != self.steps):
            _refuse("trained_betas", betas, f"num_train_timesteps={self.steps} needs a list of one number each")
        for beta in betas or [self.values[key] for key in ("beta_start", "beta_end") if key in self.values]:
            if not isinstance(beta, int | float) or not 0 < beta < 1:
                _refuse("a beta", beta, "each lies between 0 and 1")
        if self._last_signal() < DARK:
            _refuse("betas", f"{self.steps} large ones", "no signal is left at the last timestep to solve for")
        if not isinstance(self.values.get("lambda_min_clipped", 0.0), int | float):
            _refuse("lambda_min_clipped", self.values["lambda_min_clipped"], "a number is needed")
        chosen = [key for key in OWN_LEVELS if self.values.get(key)]
        if len(chosen) > 1:
            _refuse(" and ".join(chosen), True, "at most one of them can choose the noise levels")

    def _last_signal(self) -> float:
        """The logarithm of alpha_bar at the last timestep; 0 for the cosine schedule, which is not computed."""
        import numpy as np

        kind, power = self.values.get("beta_schedule", "linear"), 1.0
        first, last = self.values.get("beta_start", 0.0001), self.values.get("beta_end", 0.02)
        if kind == "scaled_linear":
            power = 0.5
        betas = self.values.get("trained_betas") or np.linspace(first**power, last**power, self.steps) ** (1 / power)
        cosine = kind == "squaredcos_cap_v2" and not self.values.get("trained_betas")
        return 0.0 if cosine else float(np.log1p(-np.asarray(betas)).sum())

    @property
    def zero_snr(self) -> bool:
        """Whether the last timestep of training is noise alone."""
        return bool(self.values.get("rescale_betas_zero_snr"))

    @property
    def own_levels(self) -> bool:
        """Whether noise levels follow another rule than the timesteps' spacing, for solvers that know such rules."""
        clipped = self.values.get("lambda_min_clipped", -float("inf")) > -float("inf")
        return clipped or any(self.values.get(key) for key in OWN_LEVELS)

    def options(self, solver: Any) -> dict[str, Any]:
        """The stored noise schedule as keyword arguments of `solver`, a diffusers scheduler class."""
        import diffusers

        own = inspect.signature(getattr(diffusers, self.kind).__init__).parameters if self.kind else {}
        known = {key: p.default for key, p in own.items() if p.default is not inspect.Parameter.empty}
        said = {**NO_CLIPPING, **known, **self.values}
        return {key: said[key] for key in inspect.signature(solver.__init__).parameters if key in said}


def _refuse(key: str, value: Any, rule: str) -> None:
    raise ValueError(
        f"the model's stored scheduler has {key}={value!r}: {rule}. Give a folder with another scheduler_config.json."
    )
