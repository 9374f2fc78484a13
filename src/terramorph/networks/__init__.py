"""Generators and discriminators. They know tensors only."""

from terramorph.networks.catalog import NETWORKS, build_network, describe_network, parameter_count
from terramorph.networks.layers import InstanceNorm, NoiseDropout, initialize, on_stride, reflected, set_noise
from terramorph.networks.patchgan import PatchGAN, PatchGANConfig
from terramorph.networks.resnet import ResNet, ResNetConfig
from terramorph.networks.unet import UNet, UNetConfig

__all__ = [
    "NETWORKS",
    "InstanceNorm",
    "NoiseDropout",
    "PatchGAN",
    "PatchGANConfig",
    "ResNet",
    "ResNetConfig",
    "UNet",
    "UNetConfig",
    "build_network",
    "describe_network",
    "initialize",
    "on_stride",
    "parameter_count",
    "reflected",
    "set_noise",
]
