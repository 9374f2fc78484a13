"""Generators and discriminators. They know tensors only."""

from terramorph.networks.catalog import (
    NETWORKS,
    AnyGenerator,
    build_generator,
    build_network,
    describe_network,
    generator_config,
    network_name,
    parameter_count,
)
from terramorph.networks.discriminators import MultiScale, PatchGAN, ProjectedDiscriminator, build_discriminator
from terramorph.networks.efficientnet_lite import EfficientNetLite, find_imagenet, load_imagenet
from terramorph.networks.generator import Core, has_palette
from terramorph.networks.inference import ClassProbabilities
from terramorph.networks.layers import (
    InstanceNorm,
    NoiseDropout,
    Norm,
    ResizeConv,
    SubpixelConv,
    Upsampling,
    initialize,
    on_stride,
    reflected,
    set_noise,
)
from terramorph.networks.lite_unet import LiteUNet, LiteUNetConfig
from terramorph.networks.resnet import ResNet, ResNetConfig
from terramorph.networks.unet import UNet, UNetConfig

__all__ = [
    "NETWORKS",
    "AnyGenerator",
    "ClassProbabilities",
    "Core",
    "EfficientNetLite",
    "InstanceNorm",
    "LiteUNet",
    "LiteUNetConfig",
    "MultiScale",
    "NoiseDropout",
    "Norm",
    "PatchGAN",
    "ProjectedDiscriminator",
    "ResNet",
    "ResNetConfig",
    "ResizeConv",
    "SubpixelConv",
    "UNet",
    "UNetConfig",
    "Upsampling",
    "build_discriminator",
    "build_generator",
    "build_network",
    "describe_network",
    "find_imagenet",
    "generator_config",
    "has_palette",
    "initialize",
    "load_imagenet",
    "network_name",
    "on_stride",
    "parameter_count",
    "reflected",
    "set_noise",
]
