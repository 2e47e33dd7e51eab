"""An Acceleration saved with weights draws from them what it draws on the checkpoint, where none was ever loaded."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiTPipeline, StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor

import cq
from cq.calibrate.loops import Loops
from cq.core.artifacts import TENSORS
from cq.engine.kernels import weight_bits
from cq.engine.stored_weights import FILE, StoredWeights, coded
from cq.sampler.ddim import DDIM
from tests.adapt.tiny_pipelines import STEPS, Tiny
from tests.quantize.trajectories import PTQ_8

pytestmark = pytest.mark.filterwarnings("ignore:__array")  # diffusers hands numpy a tensor
ENGINES = ("simulate", *["int8"] * bool(weight_bits()))


@dataclass
class Saved:
    """folder: with weights. bare: the checkpoint's folder without those of its network. drawn: by engine, on it."""

    tiny: Tiny
    made: cq.Acceleration
    folder: Path
    bare: Path
    drawn: dict[str, Tensor]

    def without_checkpoint(self) -> Tiny:
        """A pipeline around the network that the folder describes."""
        network = cq.load(self.folder).network()
        kind = StableDiffusionPipeline if self.tiny.family == "sd" else DiTPipeline
        place = "unet" if self.tiny.family == "sd" else "transformer"
        parts: Any = {place: network}
        if self.tiny.family == "sd":
            pipe = kind.from_pretrained(self.bare, **parts)
            pipe.scheduler = self.tiny.model.noise_scheduler(STEPS)
        else:
            pipe = kind(vae=self.tiny.pipe.vae, scheduler=self.tiny.model.noise_scheduler(STEPS), **parts)
        pipe.set_progress_bar_config(disable=True)
        return replace(self.tiny, pipe=pipe)


@pytest.fixture(scope="module", params=["sd", "dit"])
def saved(
    request: pytest.FixtureRequest, tiny_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Saved:
    torch.manual_seed(0)
    root, family = tmp_path_factory.mktemp("stored"), request.param
    tiny = Tiny.of(family, tiny_folders[family], DDIM())
    plain = tiny.acceleration()
    loops = Loops(model=tiny.model, num_steps=STEPS, run_seed=0).lockstep(plain, PTQ_8)
    quantizer = replace(PTQ_8, weight_bits=4, num_samples=1)
    params = quantizer.calibrate(tiny.model.denoiser, loops, num_calls=plain.num_calls, shards=root)
    name = next(name for name, row in coded(params).items() if row["weight_bits"] == 4 and not row["split"])
    learned = {f"{name}0/codes": torch.randint(0, 16, tiny.network.get_parameter(name).shape, dtype=torch.uint8)}
    made = replace(plain, params=replace(params, tensors={**params.tensors, **learned}))
    made.save(root / "with", weights=tiny.pipe)
    drawn = {}
    for engine in ENGINES:
        with made.apply(tiny.pipe, engine=engine):
            drawn[engine] = tiny.stock()
    shutil.copytree(tiny_folders[family], root / "bare")
    for path in (root / "bare").glob("[ut][nr]*/*.safetensors"):
        path.unlink()
    return Saved(tiny, made, root / "with", root / "bare", drawn)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_very_images_are_drawn_where_no_checkpoint_was_loaded(engine: str, saved: Saved) -> None:
    tiny, made = saved.without_checkpoint(), cq.load(saved.folder)
    assert all(each.is_meta for each in tiny.network.parameters())
    with made.apply(tiny.pipe, engine=engine):
        assert torch.equal(tiny.stock(), saved.drawn[engine])
        held = {name for name, _ in tiny.network.named_parameters()}
        assert held == {name for name, _ in saved.tiny.network.named_parameters()} - set(coded(made.params))
        with torch.no_grad():
            next(tiny.network.parameters()).add_(0)  # changed by somebody, so it is lowered again
        assert torch.equal(tiny.stock(), saved.drawn[engine])
    assert all(each.is_meta for each in tiny.network.parameters())


def test_a_checkpoint_serves_as_well_and_learned_codes_are_on_disk_once(saved: Saved) -> None:
    made = cq.load(saved.folder)
    assert (made.digest, made.identity) == (saved.made.digest, saved.made.identity)
    assert not [key for key in load_file(saved.folder / TENSORS) if key.endswith("codes")]
    with made.apply(saved.tiny.pipe, engine=ENGINES[-1]):
        assert torch.equal(saved.tiny.stock(), saved.drawn[ENGINES[-1]])


def test_what_does_not_belong_together_is_refused_and_leaves_the_pipeline_as_it_is(saved: Saved) -> None:
    tiny, made = saved.without_checkpoint(), cq.load(saved.folder)
    with pytest.raises(ValueError, match="Where there are none, load an Acceleration that was saved with weights"):
        saved.made.apply(tiny.pipe)
    with pytest.raises(ValueError, match=r"loaded without weights.*save\(FOLDER, weights=pipe\)"):
        saved.made.network()
    origin: Any = {**made.made_from, "model": {**made.made_from["model"], "parameters": {"float32": "0" * 64}}}
    other = replace(made, made_from=origin, stored=StoredWeights.of(saved.folder))
    with pytest.raises(ValueError, match="its weights are not those that this Acceleration was made of"):
        other.apply(tiny.pipe)
    params = replace(made.params, tensors={key: tensor + 1 for key, tensor in made.params.tensors.items()})
    with pytest.raises(ValueError, match="was saved with other parameters, which belong to another Acceleration"):
        replace(made, params=params, stored=StoredWeights.of(saved.folder)).apply(tiny.pipe)
    tiny.network.register_to_config(sample_size=99)
    with pytest.raises(ValueError, match=r"config.sample_size=99: the stored weights are of a network with 8 there"):
        made.apply(tiny.pipe)
    assert all(each.is_meta for each in tiny.network.parameters())
    assert "forward" not in tiny.network.__dict__


def test_another_number_type_than_the_stored_one_is_refused(saved: Saved) -> None:
    tiny = saved.without_checkpoint()
    with cq.load(saved.folder).apply(tiny.pipe):
        tiny.network.half()
        with pytest.raises(ValueError, match="dtype=float16: this Acceleration was made of weights in float32"):
            tiny.stock()


def test_only_the_weights_that_it_was_made_of_are_saved(saved: Saved, tmp_path: Path) -> None:
    tiny = saved.without_checkpoint()
    with pytest.raises(ValueError, match=r"weights are on no device"):
        saved.made.save(tmp_path / "new", weights=tiny.pipe)
    with pytest.raises(ValueError, match=r"has no weights"):
        saved.made.save(tmp_path / "new", weights=tiny.network)
    tiny.network.to_empty(device="cpu")
    with pytest.raises(ValueError, match=r"weights=.*its weights are not those that this Acceleration was made of"):
        saved.made.save(tmp_path / "new", weights=tiny.pipe)
    assert not (tmp_path / "new").exists()


def test_a_changed_a_foreign_and_a_lost_file_of_weights_are_refused(saved: Saved, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(saved.folder, folder)
    content = (folder / FILE).read_bytes()
    (folder / FILE).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ValueError, match="changed or damaged"):
        cq.load(folder)
    (folder / FILE).unlink()
    with pytest.raises(ValueError, match="changed or damaged"):
        cq.load(folder)
    saved.made.save(folder)  # over it, without weights
    assert cq.load(folder).digest == saved.made.digest
    (folder / FILE).write_bytes(content)
    with pytest.raises(ValueError, match="changed or damaged"):
        cq.load(folder)
    save_file({"weight": torch.ones(1)}, folder / FILE)
    with pytest.raises(ValueError, match=r"holds no weights.*Save it again with weights"):
        StoredWeights.of(folder)


def test_a_bundle_in_use_is_not_written_over_unnoticed(saved: Saved, tmp_path: Path) -> None:
    shutil.copytree(saved.folder, tmp_path / "bundle")
    made, tiny = cq.load(tmp_path / "bundle"), saved.without_checkpoint()
    with pytest.raises(ValueError, match="holds this Acceleration and its weights already"):
        made.save(tmp_path / "bundle", weights=saved.tiny.pipe)
    (learned,) = (key for key in made.params.tensors if key.endswith("codes"))
    tensors = {**saved.made.params.tensors, learned: 15 - saved.made.params.tensors[learned]}
    other = replace(saved.made, params=replace(saved.made.params, tensors=tensors))
    other.save(tmp_path / "bundle", weights=saved.tiny.pipe)
    with pytest.raises(ValueError, match="was written over since it was loaded"):
        made.apply(tiny.pipe)
    assert cq.load(tmp_path / "bundle").digest == other.digest != saved.made.digest
