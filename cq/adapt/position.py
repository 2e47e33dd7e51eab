"""Which call of a generation is running, read off the pipeline's own scheduler."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from cq.engine.fingerprint import noise_of, solver_of


def position(scheduler: Any, timestep: Tensor) -> int:
    """The call, 0 for the first. Raises ValueError where the scheduler does not stand at `timestep`.

    Schedulers count their steps (`step_index`, PNDM's `counter`, for a timestep may come twice), or go by the timestep.
    """
    times, here = scheduler.timesteps, float(timestep)
    index = getattr(scheduler, "step_index", None)
    if index is None:
        index = getattr(scheduler, "counter", None)
    if index is None or (index == 0 and float(times[0]) != here):  # nothing was stepped, or it does not count
        found = (times == here).nonzero().flatten()
        index = int(found[0]) if len(found) else -1
    if not 0 <= index < len(times) or float(times[index]) != here:
        raise ValueError(
            f"timestep={here:g}: the network is called at it, and the pipeline's scheduler stands elsewhere "
            f"(call {index} of {len(times)}). An accelerated network is called by its pipeline, once a step; take the "
            "Acceleration away with cq.remove(pipe) to call it otherwise."
        )
    return int(index)


def check_sampler(scheduler: Any, sampler: Any) -> None:
    """Raise ValueError for a scheduler that goes another way than the one of the calibration. sampler: its origin."""
    kind, steps = type(scheduler).__name__, sampler["num_inference_steps"]
    if kind != sampler["scheduler"]:
        raise ValueError(
            f"scheduler={kind}: this Acceleration was made for {sampler['scheduler']}. Set "
            f"pipe.scheduler = {sampler['scheduler']}.from_config(pipe.scheduler.config), or make one with "
            "cq.accelerate on this pipeline."
        )
    noise = noise_of(scheduler)
    if noise != sampler["noise"]:
        key = next(key for key in noise if noise[key] != sampler["noise"].get(key))
        raise ValueError(
            f"scheduler.{key}={noise[key]}: this Acceleration was made for {sampler['noise'].get(key)}. Give the "
            "scheduler the configuration of the calibration, or make one with cq.accelerate on this pipeline."
        )
    here, there = solver_of(scheduler), sampler.get("solver", {})
    for key in (each for each in there if here.get(each, there[each]) != there[each]):
        raise ValueError(
            f"scheduler.config.{key}={here[key]}: this Acceleration was made for {there[key]}. Set pipe.scheduler "
            f"= {kind}.from_config(pipe.scheduler.config, {key}={there[key]!r}), or make one with cq.accelerate."
        )
    found, asked = _floats(scheduler.timesteps), list(sampler["timesteps"])
    if len(found) != len(asked):
        raise ValueError(
            f"num_inference_steps={scheduler.num_inference_steps}: this Acceleration is for {steps} steps "
            f"({len(asked)} calls, not {len(found)}). Pass num_inference_steps={steps}, or make one with cq.accelerate."
        )
    if found != asked:
        place = next(i for i, (a, b) in enumerate(zip(found, asked, strict=True)) if a != b)
        raise ValueError(
            f"scheduler.timesteps: call {place} is at {found[place]:g}, and this Acceleration was made for "
            f"{asked[place]:g} there. Give the scheduler the configuration (timestep_spacing, steps_offset, sigmas) of "
            "the calibration, or make one with cq.accelerate on this pipeline."
        )


def _floats(timesteps: Tensor) -> Sequence[float]:
    return [float(t) for t in timesteps]
