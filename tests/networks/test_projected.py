"""Projected discriminators: a map of logits a stride, of image and source, whose mixing is fixed."""

from __future__ import annotations

import torch

from terramorph.networks import ProjectedDiscriminator


def test_projected_discriminators_look_at_image_and_source_at_every_stride() -> None:
    random = torch.Generator().manual_seed(0)
    sizes = {16: 32, 24: 16, 40: 8, 112: 4}
    network = ProjectedDiscriminator(list(sizes), width=8).eval()
    with torch.no_grad():
        image, source, other = (
            [torch.randn(2, channels, side, side, generator=random) for channels, side in sizes.items()]
            for _ in range(3)
        )
        logits = network(image, source)
        assert [tuple(one.shape) for one in logits] == [(2, 1, side, side) for side in (16, 8, 4, 2)]
        for seen in (network(other, source), network(image, other)):
            assert all(not torch.allclose(one, two) for one, two in zip(logits, seen, strict=True))


def test_the_mixing_is_the_same_in_every_run_and_is_not_trained() -> None:
    one, other = (ProjectedDiscriminator([16, 24], width=8) for _ in range(2))
    assert all(torch.equal(one.get_buffer(f"mix{n}"), other.get_buffer(f"mix{n}")) for n in range(2))
    assert not any("mix" in name for name, _ in one.named_parameters())
    assert "mix0" in one.state_dict()
    assert abs(float(one.get_buffer("mix1").std()) * 24**0.5 - 1.0) < 0.05
