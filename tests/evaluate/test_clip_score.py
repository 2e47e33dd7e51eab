"""Real weights cannot be had offline: tiny CLIPs of random weights stand in, in open_clip's own file formats."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from cq.core.artifacts import SampleSet
from cq.core.checksum import file_digest
from cq.core.contracts import Drawn
from cq.evaluate.bootstrap import interval_of_mean
from cq.evaluate.clip_folder import CONFIG_FILE, WEIGHTS_FILE
from cq.evaluate.clip_score import ClipScore, ClipScores, FolderClipScore
from cq.evaluate.protocol import EvaluationContext, MetricUnavailable
from cq.models import locate

Images = Callable[[int, int], Tensor]
Samples = Callable[[Tensor, Tensor], SampleSet]

WORDS = ("a", "large", "small", "red", "blue", "circle", "square", "above", "below")
CAPTIONS = ("a red circle", "a blue square", "a small red square above a large blue circle", "circle", "")
SIZE, NAME, TAG = 40, "cq-tiny", "drawn"
MEAN, STD = (0.3, 0.4, 0.5), (0.2, 0.25, 0.3)


def architecture(*, vocabulary: int, context: int) -> dict[str, Any]:
    return {
        "embed_dim": 12,
        "vision_cfg": {"image_size": SIZE, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8},
        "text_cfg": {"context_length": context, "vocab_size": vocabulary, "width": 16, "heads": 2, "layers": 1},
    }


def drawn_state(config: dict[str, Any], seed: int) -> dict[str, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = open_clip.CLIP(**config)
        state: dict[str, Tensor] = {
            # biases and norms start at zeros and ones, under which all captions look alike
            name: (tensor + 0.3 * torch.randn_like(tensor)).contiguous() if tensor.is_floating_point() else tensor
            for name, tensor in model.state_dict().items()
        }
    return state


@pytest.fixture(scope="session")
def judge_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as of our own judge: open_clip's two files and a tokenizer of whole words."""
    folder = tmp_path_factory.mktemp("judge")
    vocabulary = {word: i for i, word in enumerate(("<pad>", "<unk>", "<bos>", *WORDS, "<eos>"))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[(word, vocabulary[word]) for word in ("<bos>", "<eos>")]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", bos_token="<bos>", eos_token="<eos>"
    ).save_pretrained(folder)
    config = architecture(vocabulary=len(vocabulary), context=12)
    save_file(drawn_state(config, 0), folder / WEIGHTS_FILE)
    config["text_cfg"]["hf_tokenizer_name"] = "clip_judge"
    preprocess = {"mean": MEAN, "std": STD, "interpolation": "bilinear", "resize_mode": "squash"}
    (folder / CONFIG_FILE).write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
    return folder


@pytest.fixture(scope="session")
def named_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that open_clip knows by name, with OpenAI's tokenizer, and a file of weights."""
    folder = tmp_path_factory.mktemp("named")
    config = architecture(vocabulary=49408, context=16)
    (folder / f"{NAME}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder / f"{NAME}.json")
    save_file(drawn_state(config, 1), folder / "tiny.safetensors")
    return folder / "tiny.safetensors"


@pytest.fixture
def tag(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A tag of weights of the named model, as open_clip lists them; to be changed at will."""
    listed = {
        "url": "", "hf_hub": "somebody/tiny/", "mean": MEAN, "std": STD, "interpolation": "bilinear",
        "resize_mode": "squash",
    }  # fmt: skip
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, NAME, {TAG: listed})
    return listed


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test of this file may open a connection; a library may swallow the error, so it is looked for afterwards."""
    tried = []

    def connect(*args: Any, **kwargs: Any) -> None:
        tried.append(args)
        raise OSError("no network")

    monkeypatch.setattr("socket.socket.connect", connect)
    monkeypatch.setattr("socket.create_connection", connect)
    monkeypatch.setattr("socket.getaddrinfo", connect)
    yield
    assert tried == []


def own(folder: Path | str) -> FolderClipScore:
    return FolderClipScore(name="own", folder=str(folder), batch_size=2, device="cpu", resamples=40, bootstrap_seed=0)


def named(weights: Path | str, *, pretrained: str | None) -> ClipScore:
    return ClipScore(
        backbone=NAME,
        pretrained=pretrained,
        weights=str(weights),
        batch_size=2,
        device="cpu",
        resamples=40,
        bootstrap_seed=0,
    )


def several(folder: Path, *backbones: str) -> ClipScores:
    return ClipScores(
        backbones=backbones, weights=str(folder), batch_size=2, device="cpu", resamples=40, bootstrap_seed=0
    )


@pytest.fixture
def colour() -> Tensor:
    return torch.randint(256, (5, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def context(samples: Samples) -> Callable[[Tensor], EvaluationContext]:
    def make(images_NCHW: Tensor) -> EvaluationContext:
        drawn = samples(images_NCHW, torch.ones(len(images_NCHW), 1))
        return EvaluationContext(samples=drawn, baseline=None, sampling={"guidance": 5.0}, captions=CAPTIONS)

    return make


def by_hand(
    image_CHW: Tensor, tokens: list[int], model: Any, *, mean: Any, std: Any, resample: Image.Resampling
) -> float:  # fmt: skip
    """One pair: PIL's resize, the normalization written out, the model on a batch of one, the cosine in NumPy."""
    pixels_HWC = np.asarray(Image.fromarray(image_CHW.permute(1, 2, 0).numpy()).resize((SIZE, SIZE), resample))
    normal_HWC = (pixels_HWC / 255 - np.array(mean)) / np.array(std)
    pixels_1CHW = torch.from_numpy(normal_HWC).permute(2, 0, 1)[None].float()
    with torch.no_grad():
        image = model.encode_image(pixels_1CHW)[0].double().numpy()
        text = model.encode_text(torch.tensor([tokens]))[0].double().numpy()
    return 100 * max(float(image @ text / np.sqrt((image @ image) * (text @ text))), 0.0)


def loaded(weights: Path, config: dict[str, Any]) -> Any:
    model = open_clip.CLIP(**config)
    model.load_state_dict(load_file(weights))
    return model.eval()


def own_expected(judge_folder: Path, images_NCHW: Tensor) -> list[float]:
    number = {word: i for i, word in enumerate(("<pad>", "<unk>", "<bos>", *WORDS, "<eos>"))}
    rows = [[2, *(number[word] for word in caption.split()), number["<eos>"]] for caption in CAPTIONS]
    model = loaded(judge_folder / WEIGHTS_FILE, architecture(vocabulary=len(number), context=12))
    return [
        by_hand(image_CHW, row + [0] * (12 - len(row)), model, mean=MEAN, std=STD, resample=Image.Resampling.BILINEAR)
        for image_CHW, row in zip(images_NCHW, rows, strict=True)
    ]


def test_score_of_a_folder_is_the_mean_of_pairs_computed_by_hand(
    judge_folder: Path, colour: Tensor, context: Callable[[Tensor], EvaluationContext]
) -> None:
    expected = own_expected(judge_folder, colour)
    assert 0 < expected.count(0.0) < 5  # some pairs are clamped, some are not
    scores = own(judge_folder).compute(context(colour))
    assert list(scores) == ["clip_score_own"]
    score = scores["clip_score_own"]
    assert score.value == pytest.approx(np.mean(expected), rel=1e-5)
    low, high = interval_of_mean(torch.tensor(expected, dtype=torch.float64), resamples=40, seed=0)
    assert score.low == pytest.approx(low, rel=1e-4)
    assert score.high == pytest.approx(high, rel=1e-4)
    assert score.better == "up"


def test_grey_images_are_scored_as_colour_images_without_colour(
    judge_folder: Path, images: Images, context: Callable[[Tensor], EvaluationContext]
) -> None:
    grey = images(5, 0)
    expected = np.mean(own_expected(judge_folder, grey.expand(-1, 3, -1, -1)))
    assert own(judge_folder).compute(context(grey))["clip_score_own"].value == pytest.approx(expected, rel=1e-5)


def test_score_of_a_named_model_uses_openai_s_tokenizer_and_transform_where_no_tag_is_given(
    named_weights: Path, colour: Tensor, context: Callable[[Tensor], EvaluationContext]
) -> None:
    model = loaded(named_weights, architecture(vocabulary=49408, context=16))
    bpe = open_clip.SimpleTokenizer()
    expected = []
    for image_CHW, caption in zip(colour, CAPTIONS, strict=True):
        tokens = [49406, *bpe.encode(caption), 49407]
        transform = {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD}
        tokens += [0] * (16 - len(tokens))
        expected.append(by_hand(image_CHW, tokens, model, resample=Image.Resampling.BICUBIC, **transform))
    score = named(named_weights, pretrained=None).compute(context(colour))["clip_score_cq_tiny"]
    assert score.value == pytest.approx(np.mean(expected), rel=1e-5)


def test_a_tag_says_how_images_are_transformed_and_which_activation_was_trained(
    named_weights: Path, tag: dict[str, Any], colour: Tensor, context: Callable[[Tensor], EvaluationContext]
) -> None:
    """As open_clip loads the tag itself, where it may download."""
    tag["file"] = str(named_weights)  # which open_clip takes in place of a download
    model, transform = open_clip.create_model_from_pretrained(NAME, TAG)
    found = named(named_weights, pretrained=TAG).load()
    picture = Image.fromarray(colour[0].permute(1, 2, 0).numpy())
    torch.testing.assert_close(found.transform(picture), transform(picture), rtol=0, atol=0)
    assert not found.transform(picture).equal(named(named_weights, pretrained=None).load().transform(picture))
    pixels_1CHW = transform(picture)[None]
    assert found.model.encode_image(pixels_1CHW).equal(model.eval().encode_image(pixels_1CHW))  # type: ignore[operator]
    tag["quick_gelu"] = True
    quick = named(named_weights, pretrained=TAG).load().model
    expected = open_clip.create_model(NAME, str(named_weights), force_quick_gelu=True).eval().encode_image(pixels_1CHW)
    assert quick.encode_image(pixels_1CHW).equal(expected)  # type: ignore[operator]
    assert not expected.equal(model.encode_image(pixels_1CHW))


class _ForTorchmetrics(nn.Module):
    """A judge under the names that torchmetrics calls."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.config = SimpleNamespace()

    def get_image_features(self, pixels_NCHW: Tensor) -> Tensor:
        features: Tensor = self.model.encode_image(pixels_NCHW)
        return features

    def get_text_features(self, tokens: Tensor, mask: Tensor) -> Tensor:
        features: Tensor = self.model.encode_text(tokens)
        return features


def test_each_pair_scores_as_in_torchmetrics(
    judge_folder: Path, colour: Tensor, context: Callable[[Tensor], EvaluationContext]
) -> None:
    from torchmetrics.functional.multimodal.clip_score import clip_score

    judge = own(judge_folder).load()

    def processor(*, images: Any = None, text: Any = None, **_: Any) -> dict[str, Tensor]:
        if images is None:
            tokens = judge.tokenize(text)
            return {"input_ids": tokens, "attention_mask": (tokens != 0).long()}
        pictures = [Image.fromarray(image_CHW.permute(1, 2, 0).numpy()) for image_CHW in images]
        return {"pixel_values": torch.stack([judge.transform(picture) for picture in pictures])}

    with torch.no_grad():
        theirs = [
            float(clip_score(image_CHW, caption, lambda: (_ForTorchmetrics(judge.model), processor)))
            for image_CHW, caption in zip(colour, CAPTIONS, strict=True)
        ]
    ours = own(judge_folder).compute(context(colour))["clip_score_own"].value
    assert ours == pytest.approx(np.mean(theirs), rel=1e-5)


def test_scores_of_a_batch_do_not_depend_on_its_size(
    judge_folder: Path, colour: Tensor, context: Callable[[Tensor], EvaluationContext]
) -> None:
    at_once = replace(own(judge_folder), batch_size=5).compute(context(colour))["clip_score_own"]
    assert own(judge_folder).compute(context(colour))["clip_score_own"].value == pytest.approx(at_once.value, rel=1e-5)


def test_the_protocol_holds_the_backbone_and_what_makes_its_scores(
    judge_folder: Path,
    named_weights: Path,
    tag: dict[str, Any],
    tmp_path: Path,
    colour: Tensor,
    context: Callable[[Tensor], EvaluationContext],
) -> None:
    (name, score), *_ = named(named_weights, pretrained=TAG).compute(context(colour)).items()
    assert name == "clip_score_cq_tiny_drawn" == score.protocol["metric"]
    assert score.protocol["backbone"] == "open_clip cq-tiny, drawn"
    assert score.protocol["features"] == file_digest(named_weights)
    assert (score.protocol["num_images"], score.protocol["guidance"]) == (5, 5.0)
    assert "40 resamples" in score.protocol["interval"]
    mine = own(judge_folder).compute(context(colour))["clip_score_own"].protocol["features"]
    copy = tmp_path / "copy"
    shutil.copytree(judge_folder, copy)
    assert own(copy).compute(context(colour))["clip_score_own"].protocol["features"] == mine
    document = json.loads((copy / CONFIG_FILE).read_text())
    document["preprocess_cfg"]["interpolation"] = "bicubic"
    (copy / CONFIG_FILE).write_text(json.dumps(document))
    assert own(copy).compute(context(colour))["clip_score_own"].protocol["features"] != mine


def test_without_captions_there_is_no_score_and_nothing_is_loaded(
    judge_folder: Path, colour: Tensor, context: Callable[[Tensor], EvaluationContext]
) -> None:
    without = replace(context(colour), captions=())
    for metric in (own("nowhere"), own(judge_folder)):
        with pytest.raises(MetricUnavailable, match=r"clip_score_own: needs captions.*text-to-image model"):
            metric.compute(without)


def test_captions_must_be_as_many_as_images(
    judge_folder: Path, colour: Tensor, context: Callable[[Tensor], EvaluationContext]
) -> None:
    with pytest.raises(ValueError, match=r"captions: 4 for 5 images") as error:
        own(judge_folder).compute(replace(context(colour), captions=CAPTIONS[:4]))
    assert not isinstance(error.value, MetricUnavailable)


@pytest.mark.parametrize(
    ("hub", "url", "expected"),
    [
        ("somebody/tiny/", "", "https://huggingface.co/somebody/tiny/resolve/main/open_clip_model.safetensors"),
        ("somebody/tiny/model.bin", "", "https://huggingface.co/somebody/tiny/resolve/main/model.bin"),
        ("", "https://example.org/tiny.pt", "https://example.org/tiny.pt"),
    ],
)
def test_missing_weights_name_the_download_and_where_it_goes(
    hub: str,
    url: str,
    expected: str,
    named_weights: Path,
    tag: dict[str, Any],
    tmp_path: Path,
    colour: Tensor,
    context: Callable[[Tensor], EvaluationContext],
) -> None:
    tag.update(hf_hub=hub, url=url)
    with pytest.raises(MetricUnavailable) as error:
        named(tmp_path / "x.safetensors", pretrained=TAG).compute(context(colour))
    assert str(error.value) == (
        f"clip_score_cq_tiny_drawn: needs the weights of cq-tiny. Download {expected} to {tmp_path / 'x.safetensors'}."
    )
    with pytest.raises(MetricUnavailable, match=r"clip_score_cq_tiny: .*Put them at .*x.safetensors"):
        named(tmp_path / "x.safetensors", pretrained=None).compute(context(colour))


def test_a_missing_judge_names_what_the_package_holds(
    tmp_path: Path,
    colour: Tensor,
    context: Callable[[Tensor], EvaluationContext],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(locate, "WEIGHTS", tmp_path)
    with pytest.raises(MetricUnavailable, match=r"clip_score_own: .*The package holds"):
        own("zoo:clip_judge").compute(context(colour))


@pytest.mark.parametrize("missing", [CONFIG_FILE, WEIGHTS_FILE, "tokenizer.json"])
def test_an_incomplete_folder_is_refused(
    missing: str, judge_folder: Path, tmp_path: Path, colour: Tensor, context: Callable[[Tensor], EvaluationContext]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(judge_folder, copy)
    for path in copy.glob("*token*" if missing == "tokenizer.json" else missing):
        path.unlink()
    with pytest.raises(ValueError, match=missing):
        own(copy).compute(context(colour))


def test_what_open_clip_would_fetch_from_a_hub_is_refused(
    judge_folder: Path, tmp_path: Path, colour: Tensor, context: Callable[[Tensor], EvaluationContext]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(judge_folder, copy)
    document = json.loads((copy / CONFIG_FILE).read_text())
    document["model_cfg"]["text_cfg"]["hf_model_name"] = "roberta-base"
    (copy / CONFIG_FILE).write_text(json.dumps(document))
    with pytest.raises(ValueError, match=r"fetches its text tower 'roberta-base' from a hub"):
        own(copy).compute(context(colour))
    settings = {"weights": "x", "batch_size": 2, "device": "cpu", "resamples": 40, "bootstrap_seed": 0}
    for backbone in ("roberta-ViT-B-32", "ViT-B-16-SigLIP"):
        with pytest.raises(ValueError, match=rf"{backbone}.*fetches its hf_.*use FolderClipScore"):
            ClipScore(backbone=backbone, pretrained=None, **settings)  # type: ignore[arg-type]


def test_names_that_open_clip_does_not_know_are_refused(named_weights: Path, tag: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"backbone='ViT-Z-1'.*list_models"):
        replace(named(named_weights, pretrained=None), backbone="ViT-Z-1")
    with pytest.raises(ValueError, match=r"pretrained='laion9b'.*Choose from drawn, or null"):
        named(named_weights, pretrained="laion9b")
    with pytest.raises(ValueError, match=r"name='My Judge'"):
        replace(own("x"), name="My Judge")


def test_images_of_other_channels_are_refused(
    judge_folder: Path, context: Callable[[Tensor], EvaluationContext]
) -> None:  # fmt: skip
    with pytest.raises(ValueError, match="4 channels"):
        own(judge_folder).compute(context(torch.zeros(5, 4, 32, 32, dtype=torch.uint8)))


def test_several_backbones_get_a_column_each_and_those_at_hand_are_scored(
    named_weights: Path, tag: dict[str, Any], tmp_path: Path, colour: Tensor, monkeypatch: pytest.MonkeyPatch,
    context: Callable[[Tensor], EvaluationContext],
) -> None:  # fmt: skip
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, NAME, {TAG: tag, "other": tag})
    shutil.copy(named_weights, tmp_path / f"{NAME}_{TAG}.safetensors")
    judges = several(tmp_path, f"{NAME}/{TAG}", f"{NAME}/other")
    with pytest.raises(MetricUnavailable, match=rf"clip_score_cq_tiny_other: .* to {tmp_path}/cq-tiny_other") as error:
        judges.compute(context(colour))
    alone = named(tmp_path / f"{NAME}_{TAG}.safetensors", pretrained=TAG).compute(context(colour))
    assert error.value.found == alone
    state = drawn_state(architecture(vocabulary=49408, context=16), 2)
    save_file(state, tmp_path / f"{NAME}_other.safetensors")
    both = judges.compute(context(colour))
    assert set(both) == {"clip_score_cq_tiny_drawn", "clip_score_cq_tiny_other"}
    assert len({score.protocol["features"] for score in both.values()}) == 2


@pytest.mark.parametrize(
    ("backbones", "told"),
    [
        ((), "name at least one"),
        ((f"{NAME}/{TAG}",) * 2, "each once"),
        ((NAME,), "write open_clip's name and tag"),
        ((f"{NAME}/laion9b",), "open_clip has no such weights"),
    ],
)
def test_a_list_of_backbones_that_is_none_is_refused(
    backbones: tuple[str, ...], told: str, named_weights: Path, tag: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=told):
        several(tmp_path, *backbones)


DRAWN = Drawn(shape=(3, 32, 32), num_images=5, captioned=True)
Change = Callable[[dict[str, Tensor]], object]
WRONG: dict[str, tuple[Change, str]] = {
    "missing": (lambda state: state.pop("ln_final.bias"), r"lacks 'ln_final.bias'"),
    "extra": (lambda state: state.update(more=torch.ones(1)), r"has 'more', which the network has no place for"),
    "shape": (
        lambda state: state.update({"ln_final.bias": torch.ones(3)}),
        r"has .ln_final.bias. of shape \[3\] where \[16\] is asked",
    ),
}


@pytest.fixture
def copy(judge_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(judge_folder, tmp_path / "copy"))


@pytest.mark.parametrize("text", ["{}", "{", "[]", '{"model_cfg": {"text_cfg": 3}}'])
def test_a_configuration_without_a_model_is_refused_before_sampling(text: str, copy: Path) -> None:
    (copy / CONFIG_FILE).write_text(text)
    with pytest.raises(ValueError, match=rf"folder='{copy}': .*{CONFIG_FILE} describes no model"):
        own(copy).check(DRAWN)


def test_a_configuration_of_another_model_is_refused_before_sampling(copy: Path) -> None:
    document = json.loads((copy / CONFIG_FILE).read_text())
    document["model_cfg"]["text_cfg"]["depth"] = 3
    (copy / CONFIG_FILE).write_text(json.dumps(document))
    with pytest.raises(ValueError, match=rf"folder='{copy}': .*depth.*Get it and {CONFIG_FILE} again"):
        own(copy).check(DRAWN)


@pytest.mark.parametrize("wrong", WRONG)
def test_weights_of_another_model_are_refused_before_sampling(
    wrong: str, copy: Path, named_weights: Path, tmp_path: Path
) -> None:
    change, expected = WRONG[wrong]
    for source, target, metric, key in (
        (copy / WEIGHTS_FILE, copy / WEIGHTS_FILE, own(copy), "folder"),
        (named_weights, tmp_path / "x.safetensors", named(tmp_path / "x.safetensors", pretrained=None), "weights"),
    ):
        state = load_file(source)
        change(state)
        save_file(state, target)
        with pytest.raises(ValueError, match=rf"^{key}=.*{target}: it {expected}.*\. Get") as error:
            metric.check(DRAWN)
        assert "\n" not in str(error.value)


def test_weights_that_are_not_whole_or_not_finite_are_refused(copy: Path, named_weights: Path, tmp_path: Path) -> None:
    broken = load_file(copy / WEIGHTS_FILE)
    broken["ln_final.bias"][0] = torch.inf
    save_file(broken, copy / WEIGHTS_FILE)
    with pytest.raises(ValueError, match=r"folder=.*not finite in 'ln_final.bias'"):
        own(copy).load()
    (tmp_path / "x.safetensors").write_bytes(named_weights.read_bytes()[:-100])
    shutil.copy(tmp_path / "x.safetensors", copy / WEIGHTS_FILE)
    (tmp_path / "x.pt").write_bytes(b"no tensors")
    with pytest.raises(ValueError, match=rf"folder=.*{WEIGHTS_FILE} has .* cut off"):
        own(copy).check(DRAWN)
    with pytest.raises(ValueError, match=r"weights=.*x.safetensors.*cut off"):
        named(tmp_path / "x.safetensors", pretrained=None).check(DRAWN)
    with pytest.raises(ValueError, match=r"weights=.*open_clip cannot open .*x.pt: .*Get the file again"):
        named(tmp_path / "x.pt", pretrained=None).check(DRAWN)


def test_a_tokenizer_without_its_merges_or_of_broken_files_is_refused_before_sampling(copy: Path) -> None:
    (copy / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=rf"folder=.*tokenizer in {copy} cannot be opened"):
        own(copy).check(DRAWN)
    (copy / "tokenizer.json").rename(copy / "vocab.json")
    with pytest.raises(ValueError, match=r"folder=.*no vocabulary: .*vocab.json with merges.txt"):
        own(copy).check(DRAWN)


def test_what_is_whole_passes_and_is_loaded_only_where_its_names_do_not_tell(
    judge_folder: Path, named_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(load_file(named_weights), tmp_path / "x.pt")
    named(tmp_path / "x.pt", pretrained=None).check(DRAWN)
    monkeypatch.setattr(open_clip, "create_model_from_pretrained", lambda *a, **k: pytest.fail("loaded"))
    for metric in (own(judge_folder), own("zoo:clip_judge"), named(named_weights, pretrained=None)):
        metric.check(DRAWN)
