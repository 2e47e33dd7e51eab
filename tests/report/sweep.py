"""Records of a sweep that never happened: ten configurations over intervals, widths and seeds; for tests only."""

import random
from pathlib import Path

from cq.run.record import RunRecord
from tests.report.synthetic import CALLS, record, score, strip

INTERVALS = (5, 10, 20)
WIDTHS = (8, 4)
PARTS = ("none", "channel_affine")
# label, published row, schedule, quantizer, correction of the cache, correction of the outputs
CONFIGURATIONS = (
    ("full precision", "full_precision", "none", "none", 0, 0),
    ("cache only, uniform", "deepcache", "uniform", "none", 0, 0),
    ("cache only, DPS", "", "dps", "none", 0, 0),
    ("quantized only", "quant_only", "none", "ptq", 0, 0),
    ("quantized + uniform cache (naive)", "naive", "uniform", "ptq", 0, 0),
    ("quantized + DPS", "dps", "dps", "ptq", 0, 0),
    ("quantized + DPS + DEC-cache", "", "dps", "ptq", 1, 0),
    ("quantized + DPS + DEC-cache + DEC-quant", "dps_dec", "dps", "ptq", 1, 1),
    ("quantized + uniform + DEC-cache", "", "uniform", "ptq", 1, 0),
    ("quantized + uniform + DEC-cache + DEC-quant", "", "uniform", "ptq", 1, 1),
)


def sweep(folder: Path, *, seeds: int = 3) -> list[RunRecord]:
    """45 rows with strips under `folder`: DPS is better at N = 20 only, and the output correction at W4A8 only."""
    records = []
    for row, (label, paper_row, schedule, quantize, cache, quant) in enumerate(CONFIGURATIONS):
        strip(folder / f"thumbnails/{row}.png", shade=row)
        choices = {"schedule": schedule, "cost": "l1", "quantize": quantize}
        choices |= {"correct_cache": PARTS[cache], "correct_quant": PARTS[quant]}
        for interval in INTERVALS if schedule != "none" else (None,):
            for bits in WIDTHS if quantize != "none" else (None,):
                for seed in range(seeds):
                    noise = random.Random(f"{label}{interval}{bits}{seed}")
                    error = (
                        0.002 * (interval or 1) * (1 if schedule != "dps" else (1.2, 1.0, 0.7)[(interval or 5) // 8])
                    )
                    error += {8: 0.02, 4: 0.1, None: 0.0}[bits] * (0.5 if quant and bits == 4 else 1.0)
                    error *= (0.9 if cache else 1.0) * (1 + 0.02 * noise.random())
                    records.append(_run(row, label, paper_row, choices, interval, bits, seed, error, noise))
    return records


def _run(
    row: int, label: str, paper_row: str, choices: dict[str, str], interval: int | None, bits: int | None, seed: int,
    error: float, noise: random.Random,
) -> RunRecord:  # fmt: skip
    refreshes = list(range(0, CALLS, interval or 1))
    macs = 10_000_000 * (0.05 + 0.95 * len(refreshes) / CALLS)
    exact = interval is None and bits is None
    curve = [0.0 if exact else error * (0.02 + t / CALLS) * (1 + 0.1 * noise.random()) for t in range(CALLS)]
    return record(
        label,
        row=row,
        paper_row=paper_row,
        seed=seed,
        config_digest=f"{seed}-{interval}-{bits}",
        choices=choices,
        budget={"num_steps": CALLS, "cache_interval": interval, "weight_bits": bits, "act_bits": bits and 8},
        counted={
            **record().counted,
            "macs_mean": macs,
            "bops_mean": macs * (8 * bits if bits else 1024),
            "compression": 32 / (bits or 32),
            "num_refreshes": len(refreshes),
        },
        scores={
            "frechet_own": score(0.4 + 0.05 * seed + (0 if exact else error) + noise.gauss(0, 0.01)),
            "psnr_fp_db": score(100.0 if exact else 30 - 80 * error, better="up", metric="psnr_fp_db"),
            "latent_error_fp": score(curve[-1], curve=curve, metric="latent_error_fp"),
        },
        schedule={"num_calls": CALLS, "refresh_calls": refreshes},
        thumbnails=f"thumbnails/{row}.png",
    )
