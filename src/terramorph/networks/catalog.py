"""Every generator by name. A new one is a file and a line of `AnyGenerator`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any, get_args

from pydantic import Discriminator, Tag
from torch import nn

from terramorph.errors import ConfigError, did_you_mean
from terramorph.imports import is_outside
from terramorph.networks.generator import GeneratorConfig, OutsideConfig
from terramorph.networks.lite_unet import LiteUNetConfig
from terramorph.networks.resnet import ResNetConfig
from terramorph.networks.unet import UNetConfig
from terramorph.tables import checked

DEFAULT = "unet256"


def _kind(values: Any) -> str | None:
    """Return the class name of the configuration that a name asks for."""
    name = values.get("network", DEFAULT) if isinstance(values, Mapping) else getattr(values, "network", None)
    if not isinstance(name, str):
        return None
    return OutsideConfig.__name__ if is_outside(name) else _CLASSES[name].__name__ if name in _CLASSES else None


AnyGenerator = Annotated[
    Annotated[UNetConfig, Tag("UNetConfig")]
    | Annotated[ResNetConfig, Tag("ResNetConfig")]
    | Annotated[LiteUNetConfig, Tag("LiteUNetConfig")]
    | Annotated[OutsideConfig, Tag("OutsideConfig")],
    Discriminator(_kind, custom_error_type="network", custom_error_message="there is no such generator"),
]
"""The settings of a generator: a union whose member `network` decides."""

KINDS: tuple[type[GeneratorConfig], ...] = tuple(get_args(member)[0] for member in get_args(get_args(AnyGenerator)[0]))
_CLASSES = {
    name: kind
    for kind in KINDS
    if kind is not OutsideConfig
    for name in get_args(kind.model_fields["network"].annotation)
}
NETWORKS: tuple[str, ...] = tuple(_CLASSES)
"""The names."""


def config_class(name: str) -> type[GeneratorConfig]:
    """Return the configuration class of a generator by its name.

    Raises:
        ConfigError: If there is none.
    """
    if is_outside(name):
        return OutsideConfig
    if name not in _CLASSES:
        others = ", or one of your own, package.module:Name"
        raise ConfigError(f"There is no generator {name!r}; {did_you_mean(name, NETWORKS, others)}")
    return _CLASSES[name]


def generator_config(name: str, settings: Mapping[str, Any]) -> GeneratorConfig:
    """Make a configuration from a name and the settings that a bundle states beside the bands.

    Raises:
        ConfigError: If the name or a setting is unknown, or a value does not fit.
    """
    kind = config_class(name)
    values = {"settings": settings} if kind is OutsideConfig else settings
    return checked(kind, {"network": name, **values}, f"The generator {name}")


def build_generator(config: GeneratorConfig, in_bands: int, out_bands: int, allowed: Collection[str] = ()) -> nn.Module:
    """Build a generator that knows its name and settings.

    Args:
        allowed: Modules from outside that may be imported.

    Raises:
        ConfigError: If it is from outside and not allowed, not found, or no generator.
    """
    network: Any = config.build(in_bands, out_bands, allowed)
    network.made_from = config.network, {"in_bands": in_bands, "out_bands": out_bands, **config.arguments()}
    return network  # type: ignore[no-any-return]


def build_network(
    name: str, *, in_bands: int = 3, out_bands: int = 3, allowed: Collection[str] = (), **settings: Any
) -> nn.Module:
    """Build a generator from its name and settings; see `build_generator`.

    Raises:
        ConfigError: As there; if the name or a setting is unknown, or a value does not fit.
    """
    return build_generator(generator_config(name, settings), in_bands, out_bands, allowed)


def describe_network(network: nn.Module) -> dict[str, Any]:
    """Return what `build_network` takes beside the name to build a generator again, as plain data."""
    made_from: Any = network.made_from
    return dict(made_from[1])


def network_name(network: nn.Module) -> str:
    """Return the name under which a generator was built."""
    made_from: Any = network.made_from
    return str(made_from[0])


def parameter_count(network: nn.Module) -> int:
    """Count the trainable values."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad)
