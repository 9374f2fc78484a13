"""Our Adam is torch's, in another order of memory."""

from __future__ import annotations

import pytest
import torch

from terramorph.training.optimizer import Adam

LAYOUTS = (torch.channels_last, torch.contiguous_format)


@pytest.mark.parametrize("weights_as", LAYOUTS)
@pytest.mark.parametrize("gradients_as", LAYOUTS)
def test_it_equals_torchs_adam_whatever_lies_how(
    weights_as: torch.memory_format, gradients_as: torch.memory_format
) -> None:
    random = torch.Generator().manual_seed(0)
    weights = [torch.randn(size, generator=random) for size in [(8, 6, 4, 4), (5,), (7, 3)]]
    gradients = [[torch.randn(w.shape, generator=random) for w in weights] for _ in range(3)]
    results = []
    for kind, options in ((Adam, {"fused": True}), (torch.optim.Adam, {"foreach": False})):
        parameters = [torch.nn.Parameter(_laid(w, weights_as)) for w in weights]
        optimizer = kind(parameters, lr=1e-2, betas=(0.5, 0.999), **options)
        for step in gradients:
            for parameter, gradient in zip(parameters, step, strict=True):
                parameter.grad = _laid(gradient, gradients_as)
            optimizer.step()
            # Moments as they come out of a file, in torch's plain order.
            state = optimizer.state_dict()
            plain = {i: {k: v.clone().contiguous() for k, v in slots.items()} for i, slots in state["state"].items()}
            optimizer.load_state_dict({**state, "state": plain})
        assert optimizer.state_dict()["state"][0]["exp_avg"].shape == weights[0].shape
        results.append([*parameters, *(optimizer.state_dict()["state"][i]["exp_avg_sq"] for i in range(3))])
    for ours, torchs in zip(*results, strict=True):
        torch.testing.assert_close(ours, torchs, rtol=1e-6, atol=1e-7, check_stride=False)


def test_moments_lie_as_their_weights_do() -> None:
    weight = torch.nn.Parameter(torch.rand(8, 6, 4, 4).to(memory_format=torch.channels_last))
    optimizer = Adam([weight], fused=True)
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    assert optimizer.state[weight]["exp_avg"].stride() == weight.stride()
    assert weight.is_contiguous(memory_format=torch.channels_last)


def test_the_kernel_is_shown_plain_tensors_over_the_same_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[torch.Tensor] = []
    kernel = torch._fused_adam_

    def watched(*lists: list[torch.Tensor], **settings: object) -> None:
        shown.extend(tensor for tensors in lists[:4] for tensor in tensors)
        kernel(*lists, **settings)

    monkeypatch.setattr(torch, "_fused_adam_", watched)
    weight = torch.nn.Parameter(torch.rand(8, 6, 4, 4).to(memory_format=torch.channels_last))
    weight.grad = torch.ones_like(weight)
    Adam([weight], fused=True).step()
    assert len(shown) == 4
    assert all(tensor.is_contiguous() for tensor in shown)
    assert shown[0].data_ptr() == weight.data_ptr()
    assert shown[1].data_ptr() == weight.grad.data_ptr()


def _laid(tensor: torch.Tensor, how: torch.memory_format) -> torch.Tensor:
    return tensor.clone(memory_format=how) if tensor.ndim == 4 else tensor.clone()
