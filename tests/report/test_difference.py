"""Two runs against each other: what differs, tested image by image where the images are there, and shown."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cq.cli.report import main
from cq.core.artifacts import SampleSet
from cq.evaluate.fidelity import psnr_db, relative_error
from cq.report.difference import Difference, difference
from cq.report.image_pairs import paired_images
from cq.report.pick import Run, row, runs_in
from cq.report.side_by_side import images_of, side_by_side
from cq.run.ledger import write_strip
from cq.run.record_file import append
from tests.report.synthetic import record, score

IMAGES = 12
SEEDS = (0, 1)


def drawn(seed: int, noise: float) -> SampleSet:
    """Images of a run: those of full precision with this much noise; the last one with ten times as much."""
    generator = torch.Generator().manual_seed(seed)
    clean = torch.randint(60, 190, (IMAGES, 3, 16, 16), generator=generator).float()
    amount = torch.tensor([noise] * (IMAGES - 1) + [10 * noise]).view(-1, 1, 1, 1)
    images = (clean + amount * torch.randn(clean.shape, generator=generator)).clamp(0, 255).to(torch.uint8)
    return SampleSet(
        seeds=tuple(range(100 * seed, 100 * seed + IMAGES)), images_NCHW=images, latents_NCHW=images.float() / 255,
        labels_N=torch.full((IMAGES,), -1), trace_TNCHW=torch.zeros(0, 0),
    )  # fmt: skip


@pytest.fixture(name="file", scope="module")
def _file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two configurations of two seeds, drawn and scored; B has a little more noise than A."""
    root = tmp_path_factory.mktemp("runs")
    for name, noise in (("a", 4.0), ("b", 4.4)):
        for seed in SEEDS:
            folders = {"samples": f"samples/{name}{seed}", "samples_full_precision": f"samples_full_precision/{seed}"}
            ours, clean = drawn(seed, noise), drawn(seed, 0.0)
            for stage, images in (("samples", ours), ("samples_full_precision", clean)):
                images.save(root / "store" / folders[stage])
            write_strip(ours, root / f"thumbnails/{name}{seed}.png")
            psnr_N = psnr_db(ours.images_NCHW, clean.images_NCHW, cap_db=100, batch_size=5)
            error_N = relative_error(ours.latents_NCHW, clean.latents_NCHW)
            append(
                record(
                    name, seed=seed, config_digest=f"{name}{seed}" * 10, store="store", folders=folders,
                    thumbnails=f"thumbnails/{name}{seed}.png",
                    choices={"schedule": "dps" if name == "b" else "uniform"},
                    config={
                        "sample": {"num_images": IMAGES}, "schedule": {"_target_": f"cq.{name}", "interval": 20},
                        "metrics": {"fidelity": {"psnr_cap_db": 100.0}}, "only_a": {"a": 3}.get(name),
                    },
                    counted={**record().counted, "bops_mean": 4e8 if name == "b" else 1e8},
                    scores={
                        "psnr_fp_db": score(float(psnr_N.mean()), better="up", metric="psnr_fp_db"),
                        "latent_error_fp": score(float(error_N.mean()), metric="latent_error_fp"),
                        "frechet_own": score(10.0 + seed, num_images=64 if name == "a" else 128),
                        **({"kid_own": score(0.1, metric="kid_own")} if name == "a" else {}),
                    },
                ),
                root / "records.jsonl",
            )  # fmt: skip
    return root / "records.jsonl"


def compared(file: Path, runs: list[Run] | None = None) -> Difference:
    runs = runs_in([file]) if runs is None else runs
    return difference(runs, row(runs, "schedule=uniform"), row(runs, "schedule=dps"))


def line(found: Difference, title: str) -> list[str]:
    (only,) = [each for each in found.lines() if each[0].startswith(title)]
    return only


def test_the_configuration_is_told_where_it_differs_choices_first(file: Path) -> None:
    assert compared(file).configuration() == [
        ["what differs", "A", "B"], ["schedule", "uniform", "dps"], ["only_a", "3", "-"]
    ]  # fmt: skip


def test_scores_of_single_images_are_tested_image_by_image(file: Path) -> None:
    """Image by image the little more noise shows, where intervals of half a decibel overlap."""
    found = compared(file)
    *_, difference_, better, test = line(found, "PSNR")
    assert (better, test) == ("A", f"image by image, {2 * IMAGES} pairs")
    runs = runs_in([file])
    values = [
        psnr_db(drawn(s, noise).images_NCHW, drawn(s, 0.0).images_NCHW, cap_db=100, batch_size=9)
        for noise in (4.0, 4.4) for s in SEEDS
    ]  # fmt: skip
    per_image = torch.cat(values[2:]) - torch.cat(values[:2])
    images = paired_images(found.pairs, "psnr_fp_db")
    assert images is not None
    assert images.mean == pytest.approx(float(per_image.mean()))
    assert images.low < images.mean < images.high < 0
    assert difference_.startswith(f"{float(per_image.mean()):+.2f} [")
    assert line(found, "latent error")[4:] == ["A", f"image by image, {2 * IMAGES} pairs"]
    gone = [replace(run, record=replace(run.record, folders={})) for run in runs]
    assert line(compared(file, gone), "PSNR")[4:] == ["A", "seed by seed, 2"]
    single = difference(gone, gone[:1], gone[2:3])
    assert line(single, "PSNR")[4:] == ["undecided", "intervals of one seed"]


def test_images_that_are_not_what_was_scored_are_not_tested(file: Path) -> None:
    runs = [
        replace(run, record=replace(run.record, scores={**run.record.scores, "psnr_fp_db": score(31.0, better="up")}))
        for run in runs_in([file])
    ]
    assert line(compared(file, runs), "PSNR")[5] == "seed by seed, 2"


def test_two_protocols_share_no_line(file: Path) -> None:
    found = compared(file)
    assert not [each for each in found.lines() if each[0].startswith(("Frechet", "KID"))]
    assert "frechet_own: not compared, for the protocols differ in num_images: 64 against 128." in found.notes()
    assert "kid_own: only A has it." in found.notes()


def test_costs_are_told_where_they_differ(file: Path) -> None:
    found = compared(file)
    assert line(found, "BOPs a call")[1:5] == ["100.000 M", "400.000 M", "x 4", "A"]
    assert any(note.startswith("Equal in both: MACs an image (counted) 240.000 M") for note in found.notes())


def test_images_stand_one_above_the_other_from_the_same_seeds(file: Path) -> None:
    found = compared(file)
    images = images_of(found.pairs)
    assert images is not None
    assert images.source == "the store, seed 0"
    assert list(images.rows) == ["full precision", "A", "B"]
    assert images.names[:6] == tuple(f"seed {seed}" for seed in range(6))
    assert f"seed {IMAGES - 1}\nfar apart" in images.names  # the noisiest
    place = images.names.index(f"seed {IMAGES - 1}\nfar apart")
    expected = drawn(0, 4.4).images_NCHW[-1].permute(1, 2, 0).numpy()
    assert np.array_equal(images.rows["B"][place], expected)
    figure = side_by_side(images, found.headings(), "title")
    assert [axes.get_ylabel() for axes in figure.axes][:3] == list(images.rows)
    assert figure.axes[3].get_ylabel().startswith("|A - B| x ")


def test_strips_stand_in_for_images_that_are_gone(file: Path) -> None:
    runs = [replace(run, record=replace(run.record, store="")) for run in runs_in([file])]
    images = images_of(compared(file, runs).pairs)
    assert images is not None
    assert images.source.startswith("strips of the first images, seed 0")
    assert np.array_equal(images.rows["A"][3], drawn(0, 4.0).images_NCHW[3].permute(1, 2, 0).numpy())
    mute = [replace(run, record=replace(run.record, thumbnails="")) for run in runs]
    assert images_of(compared(file, mute).pairs) is None


def test_the_command(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--records", str(file), "--out", str(tmp_path)]
    assert main(["diff", "1", "schedule=dps seed=0", *asked]) == 0
    told = capsys.readouterr().out
    assert max(len(each) for each in told.splitlines() if not each.startswith("wrote")) <= 120
    assert "image by image, 12 pairs" in told
    (picture,) = tmp_path.glob("*.png")
    assert f"Images are from the store, seed 0.\nwrote {picture}\n" in told
    refused: Mapping[tuple[str, ...], str] = {
        ("1", "1"): "A and B are both run 1 of",
        ("1", "schedule=none"): "'schedule=none': names none of the 4 runs",
        ("N=20", "1"): "'N=20': names 2 configurations",
    }
    for words, message in refused.items():
        assert main(["diff", *words, *asked]) == 2
        assert message in capsys.readouterr().err
