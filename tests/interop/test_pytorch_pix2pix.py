"""Public checkpoints give what the public networks give."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from terramorph.bundle import load_bundle
from terramorph.errors import CheckpointError
from terramorph.interop import import_checkpoint
from terramorph.networks import build_discriminator
from terramorph.translate import Model

from .reference import PublicPatchGAN, PublicResNet, PublicUNet, scrambled

SHARED = Path(__file__).parents[3] / "shared" / "data" / "interop"
shared = [pytest.mark.shared, pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data is not here")]


def images(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


def saved(state: Any, folder: Path, name: str = "latest_net_G.pth") -> Path:
    torch.save(state, folder / name)
    return folder / name


def furthest(a: Tensor | np.ndarray[Any, Any], b: Tensor | np.ndarray[Any, Any]) -> float:
    return float(np.abs(np.asarray(a) - np.asarray(b)).max())


@pytest.mark.parametrize("wrapped", ["", "module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod."])
@pytest.mark.parametrize(
    ("depth", "bands", "out", "kind"),
    [(8, 3, 3, "batch"), (7, 1, 3, "instance"), (6, 4, 1, "none"), (7, 2, 2, "batch")],
)
def test_unet(depth: int, bands: int, out: int, kind: str, wrapped: str, tmp_path: Path) -> None:
    public = scrambled(PublicUNet(bands, out, depth, 3, kind))
    state = {f"{wrapped}{key}": tensor for key, tensor in public.state_dict().items()}
    bundle = import_checkpoint(saved(state, tmp_path))
    assert bundle.header.architecture.name == f"unet{2**depth}"
    assert bundle.header.size == 2**depth
    assert (bundle.header.source.count, bundle.header.target.count) == (bands, out)
    settings = bundle.header.architecture.settings
    assert (settings["width"], settings["norm"]) == (3, kind)
    # At twice the stride: instance norm in PyTorch refuses the single pixel that is left otherwise.
    x = images(1, bands, 2**depth * 2, 2**depth)
    assert furthest(bundle.network(x), public(x)) < 1e-4
    again = load_bundle(bundle.save(tmp_path / "model.safetensors"))
    assert torch.equal(again.network(x), bundle.network(x))


@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize(("blocks", "kind"), [(9, "instance"), (6, "batch"), (6, "none")])
def test_resnet(blocks: int, kind: str, dropout: bool, tmp_path: Path) -> None:
    public = scrambled(PublicResNet(2, 3, blocks, 4, kind, dropout), gain=0.05)
    bundle = import_checkpoint(saved(public.state_dict(), tmp_path))
    assert bundle.header.architecture.name == f"resnet{blocks}"
    settings = bundle.header.architecture.settings
    assert (settings["norm"], settings["dropout"]) == (kind, 0.5 if dropout else 0.0)
    x = images(2, 2, 32, 48)
    assert furthest(bundle.network(x), public(x)) < 1e-4


def test_batch_statistics(tmp_path: Path) -> None:
    public = scrambled(PublicUNet(3, 3, 6, 4, "batch"))
    bundle = import_checkpoint(saved(public.state_dict(), tmp_path), mode="paper")
    for module in public.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train()
    x = images(1, 3, 64, 64)
    assert furthest(Model(bundle, dropout=False).translate_batch(x), public(x)) < 1e-4


def filled(network: nn.Module, public: Mapping[str, Tensor], prefix: str = "") -> nn.Module:
    """A discriminator of ours with weights of the public one."""
    network.load_state_dict({f"layers.{key.removeprefix(prefix)}": tensor for key, tensor in public.items()})
    return network.eval().requires_grad_(False)


@pytest.mark.parametrize(("levels", "kind"), [(3, "batch"), (1, "instance"), (4, "none")])
def test_discriminator(levels: int, kind: str, tmp_path: Path) -> None:
    public = scrambled(PublicPatchGAN(5, 4, levels, kind))
    path = saved(public.state_dict(), tmp_path, "latest_net_D.pth")
    x = images(1, 5, 64, 80)
    ours = build_discriminator("patchgan", in_bands=5, width=4, layers=levels, norm=kind)
    assert furthest(filled(ours, public.state_dict(), "model.")(x), public(x)) < 1e-4
    with pytest.raises(CheckpointError, match="holds a discriminator"):
        import_checkpoint(path)


def test_pixel_discriminator(tmp_path: Path) -> None:
    layers = [nn.Conv2d(6, 4, 1), nn.LeakyReLU(0.2), nn.Conv2d(4, 8, 1, bias=False), nn.BatchNorm2d(8)]
    net = scrambled(nn.Sequential(*layers, nn.LeakyReLU(0.2), nn.Conv2d(8, 1, 1, bias=False)))
    x = images(1, 6, 8, 8)
    assert furthest(filled(build_discriminator("pixelgan", width=4), net.state_dict())(x), net(x)) < 1e-5
    path = saved({f"net.{key}": tensor for key, tensor in net.state_dict().items()}, tmp_path)
    with pytest.raises(CheckpointError, match="holds a discriminator"):
        import_checkpoint(path)


class Malice:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("pwned"),)


def test_what_is_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.pth"
    with pytest.raises(CheckpointError, match="There is no checkpoint"):
        import_checkpoint(path)
    good = saved(PublicUNet(3, 3, 6, 2, "batch").state_dict(), tmp_path, "good.pth").read_bytes()
    for junk in (b"", b"text", b"\x89PNG\r\n", b"PK\x03\x04 not a zip", good[:1000], good[: len(good) - 100]):
        path.write_bytes(junk)
        with pytest.raises(CheckpointError, match="not a PyTorch checkpoint"):
            import_checkpoint(path)
    path.write_bytes(pickle.dumps(Malice(), protocol=4))
    with warnings.catch_warnings(record=True, action="always") as told, pytest.raises(CheckpointError):
        import_checkpoint(path)
    assert told == []  # torch warns of the protocol
    saved({"a": Malice()}, tmp_path, "x.pth")
    with pytest.raises(CheckpointError, match="could run code"):
        import_checkpoint(path)
    assert not Path("pwned").exists()
    for state in ([1, 2], {}, {"epoch": 3}, {3: torch.zeros(1)}):
        saved(state, tmp_path, "x.pth")
        with pytest.raises(CheckpointError, match="does not hold tensors by name"):
            import_checkpoint(path)


def test_what_does_not_fit(tmp_path: Path) -> None:
    state = dict(scrambled(PublicUNet(3, 3, 6, 2, "batch")).state_dict())
    inner = "model.model.1.model.2.weight"

    def refuse(words: str, **changes: Any) -> None:
        changed = {**state, **{key.replace("__", "."): value for key, value in changes.items()}}
        changed = {key: value for key, value in changed.items() if value is not None}
        with pytest.raises(CheckpointError, match=words):
            import_checkpoint(saved(changed, tmp_path))

    refuse("not named as in the public", model__model__0__weight=None)
    refuse("lacks the tensor", model__model__3__weight=None)
    refuse("lacks the tensor", model__model__0__weight=torch.zeros(4))
    refuse("lacks the tensor head.bias", model__model__3__bias=None)
    refuse("holds a tensor model.model.9.weight", model__model__9__weight=torch.zeros(1))
    refuse(r"down_norm.1.weight as torch.float32 \(5,\)", **{inner: torch.zeros(5)})
    refuse("down_norm.1.weight that are not finite", **{inner: torch.full((4,), float("inf"))})
    refuse("head.bias as torch.sparse_coo instead of", model__model__3__bias=state["model.model.3.bias"].to_sparse())
    with pytest.raises(CheckpointError, match="U-Net of 5 levels"):
        import_checkpoint(saved(PublicUNet(3, 3, 5, 2, "batch").state_dict(), tmp_path))
    with pytest.raises(CheckpointError, match="ResNet of 3 blocks"):
        import_checkpoint(saved(PublicResNet(3, 3, 3, 2, "batch", False).state_dict(), tmp_path))
    resnet = PublicResNet(3, 3, 9, 2, "batch", False).state_dict()
    deeper = {re.sub(r"\.(1\d)\.conv", lambda at: f".{int(at[1]) + 6}.conv", key): t for key, t in resnet.items()}
    with pytest.raises(CheckpointError, match="9 blocks, the first at place 16; those of 6 and 9"):  # pix2pixHD
        import_checkpoint(saved(deeper, tmp_path))


def test_wrapped_and_old_files(tmp_path: Path) -> None:
    public = scrambled(PublicUNet(3, 3, 6, 2, "batch"))
    state = {key: value for key, value in public.state_dict().items() if "num_batches" not in key}
    bundle = import_checkpoint(saved({"state_dict": state, "epoch": 3}, tmp_path))
    x = images(1, 3, 64, 64)
    assert furthest(bundle.network(x), public(x)) < 1e-4
    assert "latest_net_G.pth" in bundle.header.note
    floats = {key: tensor.float() for key, tensor in public.state_dict().items()}
    assert furthest(import_checkpoint(saved(floats, tmp_path)).network(x), public(x)) < 1e-4
    inner = {key.replace("model.model.1.", "model.model.1._orig_mod."): value for key, value in state.items()}
    assert furthest(import_checkpoint(saved(inner, tmp_path)).network(x), public(x)) < 1e-4
    old = dict(scrambled(PublicUNet(3, 3, 6, 2, "instance")).state_dict())
    old["model.model.1.model.2.running_mean"] = torch.zeros(4)
    assert import_checkpoint(saved(old, tmp_path)).header.architecture.settings["norm"] == "instance"


class TestShared:
    """The files beside the project."""

    pytestmark = shared

    @pytest.fixture
    def source(self) -> Tensor:
        pixels = np.asarray(Image.open(SHARED / "input.png")).astype(np.float32)
        return torch.from_numpy(pixels.transpose(2, 0, 1) / 127.5 - 1.0)[None]

    @pytest.mark.parametrize("name", ["unet256_ngf8", "resnet9_ngf8_instance"])
    def test_generators(self, name: str, source: Tensor) -> None:
        bundle = import_checkpoint(SHARED / f"{name}_net_G.pth")
        expected = np.load(SHARED / f"{name}_eval.npy")
        assert furthest(bundle.network(source)[0], expected) < 1e-4
        fast = Model(bundle, precision="fp32", device="cpu").translate_batch(source)[0]
        assert furthest(fast, expected) < 1e-4

    def test_batch_statistics(self, source: Tensor) -> None:
        bundle = import_checkpoint(SHARED / "unet256_ngf8_net_G.pth")
        expected = np.load(SHARED / "unet256_ngf8_batchstats.npy")
        model = Model(bundle, mode="paper", dropout=False, device="cpu")
        assert furthest(model.translate_batch(source)[0], expected) < 1e-4

    def test_discriminator(self, source: Tensor) -> None:
        state = torch.load(SHARED / "patchgan_ndf8_net_D.pth", weights_only=True)
        network = filled(build_discriminator("patchgan", width=8), state, "model.")
        expected = np.load(SHARED / "patchgan_ndf8_eval.npy")
        assert furthest(network(torch.cat([source, source], 1))[0], expected) < 1e-4
