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
BETAS = ("linear", "scaled_linear", "squaredcos_cap_v2")
OWN_LEVELS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas")
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
            if not isinstance(value, int) or value < least:
                _refuse(key, value, f"a whole number of at least {least} is needed")
        if self.spacing is not None and self.spacing not in SPACINGS:
            _refuse("timestep_spacing", self.spacing, f"diffusers has {', '.join(SPACINGS)}")
        betas = self.values.get("trained_betas")
        if betas is not None and len(betas) != self.steps:
            _refuse("trained_betas", f"{len(betas)} values", f"num_train_timesteps={self.steps} needs one each")
        if betas is not None and max(betas) >= 1:
            _refuse("trained_betas", max(betas), "where beta is 1 no signal is left to solve for")
        if self.values.get("beta_schedule", "linear") not in BETAS:
            _refuse("beta_schedule", self.values["beta_schedule"], f"diffusers' solvers have {', '.join(BETAS)}")
        if self.values.get("thresholding"):
            _refuse("thresholding", True, "latents do not survive it, and no pixel model here was trained with it")
        if self.values.get("use_flow_sigmas") or "flow" in self.prediction:
            _refuse("use_flow_sigmas", True, "flow matching is no diffusion as it is solved here")
        if self.values.get("timestep_type", "discrete") != "discrete":
            _refuse("timestep_type", self.values["timestep_type"], "networks here take the timesteps of training")
        chosen = [key for key in OWN_LEVELS if self.values.get(key)]
        if len(chosen) > 1:
            _refuse(" and ".join(chosen), True, "at most one of them can choose the noise levels")

    @property
    def zero_snr(self) -> bool:
        """Whether the last timestep of training is noise alone."""
        return bool(self.values.get("rescale_betas_zero_snr"))

    @property
    def own_levels(self) -> bool:
        """Whether a solver that can chooses its noise levels by another rule than the spacing of timesteps."""
        clipped = self.values.get("lambda_min_clipped", -float("inf")) > -float("inf")
        return clipped or any(self.values.get(key) for key in OWN_LEVELS)

    def options(self, solver: type) -> dict[str, Any]:
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
