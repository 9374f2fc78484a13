from __future__ import annotations

import math
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

from terramorph.cartography import CLASSES, CLASSIC, MAP_CLASSES, PALETTE, load_style
from terramorph.errors import ConfigError, InputError, InputWarning
from terramorph.evaluation.classes import Classes, choose_floor, find_classes, sampled
from terramorph.evaluation.files import Spool, write_csv, write_json
from terramorph.evaluation.pictures import error_map
from terramorph.evaluation.report import pick_examples
from terramorph.evaluation.scoring import Instruments, Tally, against_floor
from terramorph.metrics import METRICS

CPU = torch.device("cpu")
MAP, NO_MAP = Classes(CLASSIC, 1.0, "it is one"), Classes(None, 0.0, "it is none")


def instruments(classes: Classes = NO_MAP, weights: Path | None = None, bands: int = 3, size: int = 32) -> Instruments:
    return Instruments.open(weights, classes, bands=bands, size=size, device=CPU)


def of_classes(index: np.ndarray) -> np.ndarray:
    """A map (3, H, W) of class indices (H, W)."""
    return np.ascontiguousarray(PALETTE[index].transpose(2, 0, 1))


def with_mask(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return image, np.ones(image.shape[1:], bool)


def drawn(colours: list[tuple[int, int, int]], shares: list[float], noise: int = 0) -> np.ndarray:
    """A map (3, 64, 64) of horizontal stripes, with noise as of a JPEG."""
    index = np.searchsorted(np.cumsum(shares)[:-1], (np.arange(64) + 0.5) / 64)
    image = np.array(colours)[index].repeat(64, 0).reshape(64, 64, 3).transpose(2, 0, 1)
    image = image + np.random.default_rng(0).integers(-noise, noise + 1, (1, 64, 64))
    return np.ascontiguousarray(image.clip(0, 255).astype(np.uint8))


OTHER = [(248, 249, 250), (255, 255, 255), (253, 226, 147), (157, 192, 250)]


def test_the_floor_of_a_map_is_its_ground_whatever_the_style() -> None:
    other = [with_mask(drawn(OTHER, [0.7, 0.1, 0.1, 0.1]))]
    assert choose_floor(other, "1 training targets", find_classes(other).palette).colour == OTHER[0]
    land = [with_mask(drawn([c.rgb for c in MAP_CLASSES], [0.6, 0.1, 0.1, 0.05, 0.05, 0.05, 0.05], noise=1))]
    found = find_classes(land)
    assert found.palette is CLASSIC
    assert choose_floor(land, "1 training targets", found.palette).colour == (232, 228, 220)


def test_the_floor_is_the_constant_colour_with_the_best_psnr() -> None:
    mixed = np.zeros((3, 8, 8), np.uint8)
    mixed[:, :5] = 90
    mixed[:, 5:7] = 140
    floor = choose_floor([with_mask(mixed)], "7 training targets")
    candidates = [np.rint(mixed.mean((1, 2))), np.full(3, 90.0)]
    errors = [((mixed - colour[:, None, None]) ** 2).mean() for colour in candidates]
    assert floor.colour == tuple(candidates[int(np.argmin(errors))])
    assert "7 training targets" in floor.why


def test_what_is_looked_at_steps_over_unreadable_and_masked() -> None:
    image, mask = np.full((1, 4, 4), 10, np.uint8), np.ones((4, 4), bool)
    image[:, :2], mask[:2] = 250, False
    images = sampled(lambda i: None if i < 90 else (image, mask) if i == 93 else (image, ~np.ones((4, 4), bool)), 100)
    assert len(images) == 1
    assert choose_floor(images, "1 target").colour == (10,)
    assert len(sampled(lambda i: (image, mask), 1000)) == 64


def test_a_map_of_another_style_is_not_scored_by_the_classic_palette() -> None:
    other = [with_mask(drawn(OTHER, [0.7, 0.1, 0.1, 0.1]))]
    found = find_classes(other)
    assert found.palette is not None
    assert not found.palette.named
    assert {c.rgb for c in found.palette.classes} == set(OTHER)
    again = found.palette.colours[found.palette.classify(other[0][0])]
    assert np.array_equal(again.transpose(2, 0, 1), other[0][0])
    asked = find_classes(other, asked="classic")
    assert asked.palette is None
    assert "classic" in asked.why


def test_a_map_is_scored_by_the_style_that_it_was_drawn_in() -> None:
    style = load_style("osm")
    forest = next(rule.fill for rule in style.rules if rule.kind == "forest")
    image = [with_mask(drawn([style.background, forest, (255, 255, 255)], [0.5, 0.3, 0.2]))]
    for found in (find_classes(image, declared="osm"), find_classes(image, asked="osm")):
        assert found.palette is not None
        assert found.palette.named
        assert set(np.unique(found.palette.classify(image[0][0]))) == {
            CLASSES.index(k) for k in ("land", "road", "park")
        }
    with pytest.warns(InputWarning, match="moved.toml"):
        found = find_classes(image, declared="moved.toml")
    assert found.palette is not None
    assert not found.palette.named
    with pytest.raises(ConfigError):
        find_classes(image, asked="moved.toml")


def test_photographs_and_single_bands_have_no_classes() -> None:
    rng = np.random.default_rng(0)
    smooth = (rng.normal(90, 25, (3, 64, 64))).clip(0, 255).astype(np.uint8)
    assert find_classes([with_mask(smooth)]).palette is None
    assert find_classes([with_mask(smooth[:1])]).share is None
    assert find_classes([]).palette is None


def test_better_than_the_floor_takes_an_interval_that_leaves_out_zero() -> None:
    rng = np.random.default_rng(0)
    truth = torch.from_numpy(np.stack([of_classes(rng.integers(0, 7, (32, 32))) for _ in range(12)]))
    constant = truth.float().mean((2, 3), keepdim=True).expand_as(truth).to(torch.uint8)
    near = (truth.int() + torch.randint(-30, 30, truth.shape)).clamp(0, 255).to(torch.uint8)
    white = constant.clone()
    white[::2] += 1  # nearer in some images, farther in others

    def tally(prediction: torch.Tensor, count: int = 12) -> Tally:
        look = instruments(MAP)
        made = Tally(look)
        made.add(look.view(prediction[:count]), look.view(truth[:count]), None)
        return made

    found = against_floor(tally(near), tally(constant))
    assert {found[key]["verdict"] for key in ("psnr", "rmse", "acc10", "miou", "class_accuracy")} == {"better"}
    assert found["miou"]["low"] <= found["miou"]["difference"] <= found["miou"]["high"]
    values = [tally(near).scores()[0]["miou"], tally(constant).scores()[0]["miou"]]
    assert found["miou"]["difference"] == pytest.approx((values[0] or 0) - (values[1] or 0))
    assert {one["verdict"] for one in against_floor(tally(constant), tally(near)).values()} == {"worse"}
    assert against_floor(tally(constant), tally(constant))["rmse"]["verdict"] == "no difference shown"
    assert against_floor(tally(white), tally(constant))["acc10"]["verdict"] == "no difference shown"
    assert against_floor(tally(near, 3), tally(constant, 3))["rmse"]["verdict"] == "no difference shown"


def test_without_weights_every_missing_score_has_its_reason() -> None:
    look = instruments()
    tally = Tally(look)
    image = look.view(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
    tally.add(image, image, None)
    scores, reasons = tally.scores()
    assert set(scores) == set(METRICS)
    assert set(reasons) == {key for key, metric in METRICS.items() if metric.needs != "pixels"}
    assert scores["psnr"] == 100.0
    assert "Inception" in reasons["fid"]
    assert tally.iou() is None


@pytest.mark.parametrize(("bands", "size", "word"), [(4, 32, "4"), (3, 8, "17 px")])
def test_what_squeezenet_cannot_look_at_has_a_reason(bands: int, size: int, word: str) -> None:
    assert word in instruments(bands=bands, size=size).missing["features"]


def test_a_missing_weights_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="lpips_squeeze_v01"):
        instruments(weights=tmp_path / "nothing")


def test_classes_count_only_where_valid() -> None:
    index = np.random.default_rng(1).integers(0, 7, (2, 16, 16))
    truth = torch.from_numpy(np.stack([of_classes(i) for i in index]))
    mask = torch.ones(2, 1, 16, 16, dtype=torch.bool)
    mask[..., :8] = False
    prediction = torch.where(mask, truth, 255 - truth)
    look = instruments(MAP)
    tally = Tally(look)
    tally.add(look.view(prediction, truth, mask), look.view(truth), mask)
    scores, _ = tally.scores()
    assert scores["class_accuracy"] == scores["miou"] == 1.0
    confusion = tally.confusion()
    assert confusion is not None
    assert int(confusion.sum()) == 2 * 16 * 8
    assert set(tally.iou() or {}) == set(CLASSES)


def test_examples_are_in_order_and_never_repeat() -> None:
    errors = [5.0, 1.0, 9.0, 3.0, 7.0, 2.0, 8.0, 4.0, 6.0]
    picks = pick_examples(errors, each=2)
    assert [errors[i] for group, i in picks if group == "best"] == [1.0, 2.0]
    assert [errors[i] for group, i in picks if group == "median"] == [4.0, 5.0]
    assert [errors[i] for group, i in picks if group == "worst"] == [9.0, 8.0]
    for count in range(1, 12):
        found = [i for _, i in pick_examples(errors[:count])]
        assert len(set(found)) == len(found) >= 1
    assert pick_examples([]) == []


def test_the_error_map_is_dark_where_right_light_where_wrong_grey_where_masked() -> None:
    truth = np.zeros((3, 2, 2), np.uint8)
    prediction = truth.copy()
    prediction[:, 0, 1] = 255
    mask = np.array([[True, True], [True, False]])
    drawn = error_map(prediction, truth, mask)
    assert drawn[:, 0, 0].max() <= 4
    assert drawn[:, 0, 1].min() > 180
    assert drawn[:, 1, 1].tolist() == [128, 128, 128]


def test_spooled_images_come_back(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 3, 4, 4), dtype=np.uint8)
    with closing(Spool(tmp_path, (3, 4, 4))) as spool:
        spool.append(images[:2])
        assert (spool.read(1) == images[1]).all()
        spool.append(images[2:])
        assert (spool.read(4) == images[4]).all()
    assert list(tmp_path.iterdir()) == []


def test_files_are_strict_and_whole(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"a": math.nan})
    write_csv(tmp_path / "x.csv", ["p, q", "r"], {"psnr": [1.0, 2.5], "lpips": []})
    assert (tmp_path / "x.csv").read_text() == 'id,psnr\n"p, q",1\nr,2.5\n'
    assert [p.name for p in tmp_path.iterdir()] == ["x.csv"]
