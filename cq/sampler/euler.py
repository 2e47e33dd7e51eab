"""Euler's method on the probability flow ODE in the variance-exploding scale (arXiv:2206.00364): SDXL's own sampler."""

from dataclasses import dataclass

from cq.sampler.stock import StockSolver


@dataclass(frozen=True, kw_only=True)
class Euler(StockSolver):
    """diffusers' EulerDiscreteScheduler without churn, on any grid. It scales the first noise and what is called."""

    scheduler = "EulerDiscreteScheduler"
    spacing = "linspace"
    whole = False
