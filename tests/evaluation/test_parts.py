from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from terramorph.cartography import CLASSES, PALETTE
from terramorph.errors import InputError
from terramorph.evaluation.files import Spool, write_csv, write_json
from terramorph.evaluation.floor import choose_floor
from terramorph.evaluation.pictures import data_uri, error_map
from terramorph.evaluation.report import pick_examples
from terramorph.evaluation.scoring import SCORE_KEYS, Instruments, Tally, classes_of

CPU = torch.device("cpu")


def of_classes(index: np.ndarray) -> np.ndarray:
    """A map (3, H, W) of class indices (H, W)."""
    return np.ascontiguousarray(PALETTE[index].transpose(2, 0, 1))


def test_a_map_is_known_by_its_colours_and_its_floor_is_land() -> None:
    image = of_classes(np.random.default_rng(0).integers(0, 7, (16, 16)))
    floor = choose_floor(lambda i: (image, np.ones((16, 16), bool)), 5)
    assert floor.is_map
    assert floor.map_share == 1.0
    assert floor.colour == (232, 228, 220)


def test_the_floor_of_anything_else_is_the_mean_of_the_training_split() -> None:
    mask = np.ones((8, 8), bool)
    truth, training = np.full((3, 8, 8), 60, np.uint8), np.full((3, 8, 8), 90, np.uint8)
    alone = choose_floor(lambda i: (truth, mask), 3)
    assert (alone.is_map, alone.colour) == (False, (60, 60, 60))
    assert "truths themselves" in alone.why
    known = choose_floor(lambda i: (truth, mask), 3, lambda i: (training, mask), 100)
    assert known.colour == (90, 90, 90)
    assert "64 training targets" in known.why


def test_the_floor_steps_over_unreadable_and_masked() -> None:
    image, mask = np.full((1, 4, 4), 10, np.uint8), np.ones((4, 4), bool)
    image[:, :2], mask[:2] = 250, False
    floor = choose_floor(lambda i: None if i == 0 else (image, mask), 2)
    assert floor.colour == (10,)
    assert floor.map_share is None


def test_without_weights_every_missing_score_has_its_reason() -> None:
    tally = Tally(Instruments.open(None, bands=3, size=32, device=CPU), count_classes=False)
    image = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    tally.add(image, image, None, None)
    scores, reasons = tally.scores()
    assert set(scores) == set(SCORE_KEYS)
    assert scores["psnr"] == 100.0
    assert {"lpips", "fd", "kd", "fid"} <= set(reasons)
    assert "Inception" in reasons["fid"]
    assert tally.iou() is None


@pytest.mark.parametrize(("bands", "size", "word"), [(4, 32, "4"), (3, 8, "17 px")])
def test_what_squeezenet_cannot_look_at_has_a_reason(bands: int, size: int, word: str) -> None:
    assert word in Instruments.open(None, bands=bands, size=size, device=CPU).reasons["lpips"]


def test_a_missing_weights_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="lpips_squeeze_v01"):
        Instruments.open(tmp_path / "nothing", bands=3, size=32, device=CPU)


def test_classes_count_only_where_valid() -> None:
    index = np.random.default_rng(1).integers(0, 7, (2, 16, 16))
    truth = torch.from_numpy(np.stack([of_classes(i) for i in index]))
    mask = torch.ones(2, 1, 16, 16, dtype=torch.bool)
    mask[..., :8] = False
    prediction = torch.where(mask, truth, 255 - truth)
    tally = Tally(Instruments(), count_classes=True)
    tally.add(prediction, truth, mask, None, truth_classes=classes_of(truth))
    scores, _ = tally.scores()
    assert scores["class_accuracy"] == scores["miou"] == 1.0
    assert int(tally.confusion.sum()) == 2 * 16 * 8
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
    assert data_uri(drawn).startswith("data:image/webp;base64,")


def test_spooled_images_come_back(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 3, 4, 4), dtype=np.uint8)
    with Spool(tmp_path, (3, 4, 4)) as spool:
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
