"""The patch discriminator of pix2pix (Isola et al. 2017, arXiv:1611.07004, section 3.3 and appendix 6.1.2)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.utils import parametrizations

from terramorph.networks.layers import Norm, make_norm


class PatchGAN(nn.Module):
    """A convolutional discriminator with one logit per patch; 2.769 M parameters for 70x70 on 6 bands.

    4x4 convolutions with zero padding; 256x256 in gives 30x30 logits at three layers.

    Args:
        in_bands: Bands of source and target together (the discriminator is conditional).
        width: Channels after the first convolution.
        layers: stride-2 convolutions; 3 judges 70x70 patches, 1 judges 16x16, 5 judges 286x286, 0 single pixels.
        norm: batch, instance or none.
        spectral_norm: Divide every weight by its largest singular value (Miyato et al. 2018, arXiv:1802.05957,
            equation 8), which bounds how steep the discriminator is; a norm is then not needed.
    """

    def __init__(
        self,
        in_bands: int = 6,
        width: int = 64,
        layers: int = 3,
        norm: Norm = "batch",
        spectral_norm: bool = False,
    ) -> None:
        super().__init__()
        # As in the public networks, but that those of spectral normalisation alone need one to be shifted at all.
        bias = norm == "instance" or (spectral_norm and norm == "none")
        if layers == 0:
            parts: list[nn.Module] = [
                nn.Conv2d(in_bands, width, 1),
                nn.LeakyReLU(0.2),
                nn.Conv2d(width, 2 * width, 1, bias=bias),
                make_norm(norm, 2 * width),
                nn.LeakyReLU(0.2),
                nn.Conv2d(2 * width, 1, 1, bias=bias),
            ]
        else:
            parts, inner = [nn.Conv2d(in_bands, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)], width
            for level in range(1, layers + 1):
                out, stride = width * min(2**level, 8), 2 if level < layers else 1
                conv = nn.Conv2d(inner, out, 4, stride=stride, padding=1, bias=bias)
                parts += [conv, make_norm(norm, out), nn.LeakyReLU(0.2)]
                inner = out
            parts.append(nn.Conv2d(inner, 1, 4, stride=1, padding=1))
        self.layers = nn.Sequential(*parts)
        for part in parts if spectral_norm else ():
            if isinstance(part, nn.Conv2d):
                parametrizations.spectral_norm(part)

    def forward(self, pair: Tensor) -> Tensor:
        """float (N, in_bands, H, W), source and target stacked -> logits (N, 1, h, w), one a patch."""
        logits: Tensor = self.layers(pair)
        return logits

    def features(self, pair: Tensor) -> list[list[Tensor]]:
        """Return every activation and, last, the logits, in a list of one scale."""
        seen = []
        for layer in self.layers:
            pair = layer(pair)
            if isinstance(layer, nn.LeakyReLU):
                seen.append(pair)
        return [[*seen, pair]]
