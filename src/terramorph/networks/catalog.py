"""Every network by name: one table, name -> what it is made with, what it is, and what the name fixes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, fields
from difflib import get_close_matches
from typing import Any

from torch import nn

from terramorph.errors import ConfigError
from terramorph.networks.lite_unet import LiteUNet, LiteUNetConfig
from terramorph.networks.patchgan import PatchGAN, PatchGANConfig
from terramorph.networks.resnet import ResNet, ResNetConfig
from terramorph.networks.unet import UNetConfig, make_unet

NETWORKS: dict[str, tuple[type[Any], Callable[[Any], nn.Module], dict[str, Any]]] = {
    "unet256": (UNetConfig, make_unet, {"depth": 8}),
    "unet128": (UNetConfig, make_unet, {"depth": 7}),
    "unet64": (UNetConfig, make_unet, {"depth": 6}),
    "resnet9": (ResNetConfig, ResNet, {"blocks": 9}),
    "resnet6": (ResNetConfig, ResNet, {"blocks": 6}),
    "lite-unet": (LiteUNetConfig, LiteUNet, {}),
    "patchgan": (PatchGANConfig, PatchGAN, {}),
    "pixelgan": (PatchGANConfig, PatchGAN, {"layers": 0}),
}


def build_network(name: str, **values: Any) -> nn.Module:
    """Builds a network from its name in `NETWORKS` and the fields of its configuration.

    Raises:
        ConfigError: if the name or a field is unknown.
    """
    if name not in NETWORKS:
        raise ConfigError(f"There is no network {name!r}{_nearest(name, list(NETWORKS))}.")
    config_class, make, fixed = NETWORKS[name]
    known = [field.name for field in fields(config_class)]
    for key in values:
        if key not in known:
            raise ConfigError(f"The network {name} has no setting {key!r}{_nearest(key, known)}.")
    return make(config_class(**{**values, **fixed}))


def describe_network(network: nn.Module) -> dict[str, Any]:
    """The fields that build the network again, as plain data (all of them, defaults too)."""
    config: Any = network.config
    return asdict(config)


def parameter_count(network: nn.Module) -> int:
    """Number of trainable values."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def _nearest(word: str, known: list[str]) -> str:
    close = get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(known)}"
