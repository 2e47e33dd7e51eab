"""Scheduler configurations as folders store them, the bundled ones included."""

import json
from pathlib import Path
from typing import Any

import cq

ZOO = Path(cq.__file__).parent / "zoo" / "weights"
LATENT: dict[str, Any] = {
    "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "num_train_timesteps": 1000,
}  # fmt: skip
SDXL = {
    **LATENT, "_class_name": "EulerDiscreteScheduler", "clip_sample": False, "interpolation_type": "linear",
    "prediction_type": "epsilon", "sample_max_value": 1.0, "set_alpha_to_one": False, "skip_prk_steps": True,
    "steps_offset": 1, "timestep_spacing": "leading", "trained_betas": None, "use_karras_sigmas": False,
}  # fmt: skip
SD2 = {
    **LATENT, "_class_name": "DDIMScheduler", "clip_sample": False, "prediction_type": "v_prediction",
    "set_alpha_to_one": False, "skip_prk_steps": True, "steps_offset": 1, "trained_betas": None,
}  # fmt: skip
PIXART = {
    "_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "dpmsolver++", "beta_end": 0.02,
    "beta_schedule": "linear", "beta_start": 0.0001, "dynamic_thresholding_ratio": 0.995, "euler_at_final": False,
    "lambda_min_clipped": -float("inf"), "lower_order_final": True, "num_train_timesteps": 1000,
    "prediction_type": "epsilon", "sample_max_value": 1.0, "solver_order": 2, "solver_type": "midpoint",
    "steps_offset": 0, "thresholding": False, "timestep_spacing": "linspace", "trained_betas": None,
    "use_karras_sigmas": False, "use_lu_lambdas": False, "variance_type": None,
}  # fmt: skip
DIT = {
    "_class_name": "DDIMScheduler", "beta_end": 0.02, "beta_schedule": "linear", "beta_start": 0.0001,
    "clip_sample": False, "num_train_timesteps": 1000, "prediction_type": "epsilon", "set_alpha_to_one": True,
    "steps_offset": 0, "trained_betas": None,
}  # fmt: skip
EULER = {"_class_name": "EulerDiscreteScheduler", **LATENT}
TRAINED = [0.0005 + 0.00001 * i for i in range(1000)]


def bundled(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ZOO / name / "scheduler" / "scheduler_config.json").read_text("utf-8"))
    return found


STORED: dict[str, dict[str, Any]] = {
    **{name: bundled(name) for name in ("ldm_mini", "dit_mini", "ldm_uncond_mini", "sd_mini", "ddpm_mini")},
    "SD 1": {"_class_name": "PNDMScheduler", **LATENT, "set_alpha_to_one": False, "skip_prk_steps": True,
             "steps_offset": 1, "trained_betas": None, "clip_sample": False},
    "SD 1 without a word more": {"_class_name": "PNDMScheduler", **LATENT, "skip_prk_steps": True},
    "PNDM with Runge-Kutta steps": {"_class_name": "PNDMScheduler", **LATENT},
    "SD 2.1": SD2,
    "SD 2.1, Euler": {**SDXL, "prediction_type": "v_prediction"},
    "SDXL": SDXL,
    "DiT": DIT,
    "DDPM of DiT": {**DIT, "_class_name": "DDPMScheduler", "variance_type": "learned_range"},
    "DDIM that says nothing": {"_class_name": "DDIMScheduler", **LATENT},
    "DDPM that predicts the image": {"_class_name": "DDPMScheduler", **LATENT, "prediction_type": "sample"},
    "PixArt": PIXART,
    "DPM++, trailing": {**PIXART, "timestep_spacing": "trailing"},
    "DPM++, third order": {**PIXART, "solver_order": 3},
    "DPM++, Karras": {**PIXART, "use_karras_sigmas": True},
    "DPM++, uniform in log SNR": {**PIXART, "use_lu_lambdas": True},
    "DPM++, exponential": {**PIXART, "use_exponential_sigmas": True},
    "DPM++, beta": {**PIXART, "use_beta_sigmas": True},
    "DPM++, clipped cosine": {**PIXART, "beta_schedule": "squaredcos_cap_v2", "lambda_min_clipped": -5.1},
    "DPM++, ends above zero": {**PIXART, "final_sigmas_type": "sigma_min"},
    "DPM++, stochastic": {**PIXART, "algorithm_type": "sde-dpmsolver++"},
    "DPM-Solver": {**PIXART, "algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"},
    "Euler that says nothing": EULER,
    "Euler, Karras": {**SDXL, "use_karras_sigmas": True},
    "Euler, trailing": {**EULER, "timestep_spacing": "trailing"},
    "Euler, log linear": {**EULER, "interpolation_type": "log_linear"},
    "Euler, continuous": {**EULER, "timestep_type": "continuous", "prediction_type": "v_prediction"},
    "Euler ancestral": {**EULER, "_class_name": "EulerAncestralDiscreteScheduler", "steps_offset": 1},
    "UniPC": {"_class_name": "UniPCMultistepScheduler", **LATENT, "solver_order": 3, "steps_offset": 1},
    "DEIS": {"_class_name": "DEISMultistepScheduler", **LATENT, "timestep_spacing": "leading"},
    "single step": {"_class_name": "DPMSolverSinglestepScheduler", **LATENT},
    "Heun": {"_class_name": "HeunDiscreteScheduler", "num_train_timesteps": 1000},
    "KDPM2": {"_class_name": "KDPM2AncestralDiscreteScheduler", **LATENT, "timestep_spacing": "trailing"},
    "LMS": {"_class_name": "LMSDiscreteScheduler", **LATENT},
    "zero terminal SNR": {**SD2, "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
    "zero terminal SNR, noise": {**SD2, "rescale_betas_zero_snr": True, "timestep_spacing": "trailing",
                                 "prediction_type": "epsilon"},
    "zero terminal SNR, Euler": {**EULER, "rescale_betas_zero_snr": True, "timestep_spacing": "trailing",
                                 "prediction_type": "v_prediction"},
    "linspace": {**DIT, "timestep_spacing": "linspace"},
    "trailing": {**DIT, "timestep_spacing": "trailing"},
    "offset beyond a step": {**DIT, "steps_offset": 10},
    "thresholding": {**DIT, "thresholding": True},
    "cosine": {**DIT, "beta_schedule": "squaredcos_cap_v2"},
    "sigmoid": {**DIT, "_class_name": "DDPMScheduler", "beta_schedule": "sigmoid"},
    "100 training steps": {**DIT, "num_train_timesteps": 100},
    "4000 training steps": {**DIT, "num_train_timesteps": 4000},
    "betas one by one": {**DIT, "trained_betas": TRAINED},
    "betas that are too few": {**DIT, "trained_betas": TRAINED[:10]},
    "flow matching": {**PIXART, "use_flow_sigmas": True, "prediction_type": "flow_prediction"},
    "flow matching, Euler": {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0},
    "EDM": {"_class_name": "EDMEulerScheduler", "sigma_max": 80.0},
}  # fmt: skip
