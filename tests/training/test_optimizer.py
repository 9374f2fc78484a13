"""Our Adam is torch's, in another order of memory."""

from __future__ import annotations

import torch

from terramorph.training.optimizer import Adam, as_stored


def test_it_equals_torchs_adam_and_keeps_shapes_and_layout() -> None:
    random = torch.Generator().manual_seed(0)
    weights = [torch.randn(size, generator=random) for size in [(8, 6, 4, 4), (5,), (7, 3)]]
    gradients = [[torch.randn(w.shape, generator=random) for w in weights] for _ in range(3)]
    results = []
    for kind, options in ((Adam, {"fused": True}), (torch.optim.Adam, {"foreach": False})):
        parameters = [
            torch.nn.Parameter(w.clone(memory_format=torch.channels_last) if w.ndim == 4 else w.clone())
            for w in weights
        ]
        optimizer = kind(parameters, lr=1e-2, betas=(0.5, 0.999), **options)
        for step in gradients:
            for parameter, gradient in zip(parameters, step, strict=True):
                parameter.grad = torch.empty_like(parameter).copy_(gradient)
            optimizer.step()
        assert parameters[0].is_contiguous(memory_format=torch.channels_last)
        state = optimizer.state_dict()["state"]
        assert state[0]["exp_avg"].shape == weights[0].shape
        assert state[0]["exp_avg"].stride() == parameters[0].stride()
        results.append([*parameters, *(state[i]["exp_avg_sq"] for i in range(3))])
    for ours, torchs in zip(*results, strict=True):
        torch.testing.assert_close(ours, torchs, rtol=1e-6, atol=1e-7)


def test_every_tensor_is_shown_as_it_lies_in_memory() -> None:
    weight = torch.rand(8, 6, 4, 4).to(memory_format=torch.channels_last)
    shown = as_stored(weight)
    assert shown.is_contiguous()
    assert shown.data_ptr() == weight.data_ptr()
    for plain in (torch.rand(8, 6, 4, 4), torch.rand(5)):
        assert as_stored(plain) is plain
