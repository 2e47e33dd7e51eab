"""Records of runs that never happened: for tests only, written nowhere but under tmp_path."""

import random
from pathlib import Path
from typing import Any

from cq.core.checksum import fingerprint_of
from cq.run.record import SCHEMA, RunRecord

PROTOCOL = {"metric": "frechet_own", "num_images": 64, "model": "synthetic", "steps": 100}
CALLS = 100


def score(value: float, *, better: str = "down", curve: list[float] | None = None, **protocol: Any) -> dict[str, Any]:
    full = {**PROTOCOL, **protocol}
    return {
        "value": value,
        "low": value - 0.5,
        "high": value + 0.5,
        "better": better,
        "protocol": full,
        "fingerprint": fingerprint_of(full),
        "curve": curve or [],
    }


def record(label: str = "synthetic row", **changes: Any) -> RunRecord:
    """A whole record; `changes` replace fields, but in choices and configuration add to what every record has."""
    fields: dict[str, Any] = {
        "schema": SCHEMA,
        "experiment": f"synthetic/{label}",
        "table": "table5",
        "row": 0,
        "label": label,
        "paper_row": "",
        "choices": {"schedule": "uniform", "quantize": "ptq"},
        "budget": {"num_steps": CALLS, "cache_interval": 20, "weight_bits": 8, "act_bits": 8},
        "seed": 0,
        "config": {"synthetic": True},
        "config_digest": "c" * 64,
        "model": {"name": "synthetic", "weights_digest": "w" * 64},
        "commit": "0123456789abcdef",
        "clean_tree": True,
        "date": "2001-01-01T00:00:00Z",
        "versions": {"torch": "0"},
        "device": "synthetic device",
        "counted": {
            "macs_full": 10_000_000,
            "macs_cached": 2_000_000,
            "macs_mean": 2_400_000.0,
            "bops_mean": 153_600_000.0,
            "weight_bytes": 1_000_000,
            "compression": 4.0,
            "num_refreshes": 5,
            "num_calls": CALLS,
        },
        "measured": None,
        "scores": {"frechet_own": score(10.0)},
        "seconds": {"sample": 1.0},
        "made": {},
        "artifacts": {"schedule": "d" * 64},
        "images_digest": "e" * 64,
        "schedule": {"num_calls": CALLS, "refresh_calls": list(range(0, CALLS, 20))},
        "thumbnails": "",
        "status": "ok",
        "note": "",
    }
    found = fields | changes
    steps = {"num_steps": found["budget"]["num_steps"], "sampler": "ddim"}
    found["choices"] = {"sampler": "ddim", "cache": "cut", "predict": "last", "engine": "simulate", **found["choices"]}
    found["config"] = {"sampler": "ddim", "baseline": steps, **found["config"]}
    return RunRecord(**found)


def strip(path: Path, *, shade: int) -> None:
    """A PNG of eight small squares in a row."""
    import numpy as np
    from matplotlib.image import imsave

    path.parent.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(shade)
    squares = []
    for hue in range(8):
        ramp = np.add.outer(np.arange(32), np.arange(32)) * (2 + hue % 3)
        square = np.stack([(ramp + 30 * hue) % 256, (255 - ramp) % 256, (ramp * hue) % 256], -1)
        squares.append(np.clip(square + generator.normal(0, 8 * shade, square.shape), 0, 255))
    imsave(path, np.concatenate(squares, 1).astype(np.uint8))


def ablation(folder: Path, *, seeds: int = 2) -> list[RunRecord]:
    """A whole table with strips under `folder`: seven rows, the last of which failed."""
    names = [
        ("full precision", "full_precision", 3.4, None, list(range(CALLS))),
        ("quantized only", "quant_only", 4.1, 0.01, list(range(CALLS))),
        ("cached, uniform", "deepcache", 8.3, 0.04, list(range(0, CALLS, 20))),
        ("cached and quantized, plainly combined", "naive", 15.1, 0.2, list(range(0, CALLS, 20))),
        ("quantized + DPS", "dps", 9.0, 0.1, [0, 9, 20, 46, 80]),
        ("quantized + DPS + DEC-cache", "dps_dec", 7.0, 0.05, [0, 9, 20, 46, 80]),
    ]
    records = []
    for row, (label, paper_row, value, error, refreshes) in enumerate(names):
        for seed in range(seeds):
            noise = random.Random(f"{label}{seed}")
            quantized = row not in (0, 2)
            macs = 10_000_000 * (0.2 + 0.8 * len(refreshes) / CALLS)
            thumbnails = f"thumbnails/{row}.png"
            strip(folder / thumbnails, shade=row)
            scores = {"frechet_own": score(value + noise.gauss(0, 0.2))}
            if error is not None:
                curve = [error * (0.02 + t / CALLS) * (1 + 0.1 * noise.random()) for t in range(CALLS)]
                curve[0] = 0.0
                scores["latent_error_fp"] = score(curve[-1], curve=curve, metric="latent_error_fp")
                scores["psnr_fp_db"] = score(30 - 80 * error, better="up", metric="psnr_fp_db")
            records.append(
                record(
                    label,
                    row=row,
                    paper_row=paper_row,
                    seed=seed,
                    config_digest=f"{seed}" * 64,
                    choices={"quantize": "ptq" if quantized else "none"},
                    budget={
                        "num_steps": CALLS,
                        "cache_interval": 20 if len(refreshes) < CALLS else None,
                        "weight_bits": 8 if quantized else None,
                        "act_bits": 8 if quantized else None,
                    },
                    counted={
                        **record().counted,
                        "macs_mean": macs,
                        "bops_mean": macs * (64 if quantized else 1024),
                        "compression": 4.0 if quantized else 1.0,
                        "num_refreshes": len(refreshes),
                    },
                    measured=None
                    if quantized
                    else {"seconds_per_image": 0.5 * macs / 1e7, "peak_mem_mib": 100.0, "device": "synthetic device"},
                    scores=scores,
                    schedule={"num_calls": CALLS, "refresh_calls": refreshes},
                    thumbnails=thumbnails,
                )
            )
    records.append(
        record(
            "quantized + DPS + DEC + reconstruction",
            row=6,
            paper_row="dps_dec_recon",
            status="not run",
            note="needs reconstruction, which is not built yet",
            scores={},
            counted={},
            schedule={},
        )
    )
    return records
