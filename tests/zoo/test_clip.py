"""The small CLIPs: open_clip reads them from a folder, transformers' text tower says the same."""

import json
import socket
from pathlib import Path
from typing import NoReturn

import open_clip
import pytest
import torch
from open_clip.model import CLIP
from safetensors.torch import load_file

from experiments.zoo.scenes import caption, combinations
from experiments.zoo.text_tower import to_transformers
from experiments.zoo.tokens import END, START, caption_tokens, vocabulary
from experiments.zoo.trainer import fit
from tests.zoo.tiny_zoo import clip


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever opens a connection fails."""

    def refused(*_: object, **__: object) -> NoReturn:
        raise AssertionError("went to the network")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)


def test_open_clip_opens_the_exported_folder_offline(garments: None, offline: None, tmp_path: Path) -> None:
    figures = fit(clip(tmp_path), work=tmp_path / "work", zoo=tmp_path)
    assert 0 <= figures["held_out_caption_accuracy"] <= 1
    name = f"local-dir:{tmp_path / 'clip_judge'}"
    model, _, preprocess = open_clip.create_model_and_transforms(name, require_pretrained=True)
    assert isinstance(model, CLIP)
    kept = load_file(tmp_path / "clip_judge" / "open_clip_model.safetensors")
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, kept[key].float()), key
    captions = [caption(c) for c in combinations()[:30]]
    tokens = open_clip.get_tokenizer(name)(captions)
    assert torch.equal(tokens, caption_tokens()[:30])
    from PIL import Image

    image = preprocess(Image.new("RGB", (32, 32), (255, 0, 127)))
    # what the judge is trained on: 0..255 to -1..1
    torch.testing.assert_close(image[:, 5, 5], torch.tensor([1.0, -1.0, 127 / 127.5 - 1]))
    similarities = model.encode_image(image[None], normalize=True) @ model.encode_text(tokens, normalize=True).T
    assert similarities.shape == (1, 30)


def test_nothing_of_this_machine_is_written(garments: None, tmp_path: Path) -> None:
    fit(clip(tmp_path), work=tmp_path / "work", zoo=tmp_path)
    for path in (tmp_path / "clip_judge").glob("*.json"):
        assert str(tmp_path) not in path.read_text(), path.name
    config = json.loads((tmp_path / "clip_judge" / "open_clip_config.json").read_text())
    assert config["model_cfg"]["text_cfg"]["context_length"] == 16


def test_the_converted_text_tower_computes_the_same() -> None:
    torch.manual_seed(5)
    model = clip(Path("not needed")).model().eval()
    assert isinstance(model, CLIP)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    ids = caption_tokens()[::7]
    start, end = vocabulary()[START], vocabulary()[END]
    converted = to_transformers(model, start=start, end=end)
    with torch.no_grad():
        found = converted(ids)
        pooled = found.pooler_output @ model.text_projection
        hidden = model.transformer(model.token_embedding(ids) + model.positional_embedding, attn_mask=model.attn_mask)
        # float32 rounding of products that are grouped differently
        torch.testing.assert_close(found.last_hidden_state, model.ln_final(hidden), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(pooled, model.encode_text(ids), atol=1e-5, rtol=1e-5)
