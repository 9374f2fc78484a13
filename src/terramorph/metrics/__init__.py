"""Metrics of a translation's quality. Tensors in, numbers out; `catalog` lists them."""

from terramorph.metrics.catalog import FROZEN, MAIN, METRICS, Metric, Needs, add_metrics, added_metrics, with_own
from terramorph.metrics.distribution import frechet_distance, kernel_distance
from terramorph.metrics.inception import INCEPTION_FILE, InceptionFeatures
from terramorph.metrics.mapwise import class_accuracy, class_iou, confusions, mean_iou, named_iou
from terramorph.metrics.perceptual import BACKBONE_FILE, HEADS_FILE, Features, Lpips, lpips
from terramorph.metrics.pixelwise import PSNR_CAP, accuracy_within, psnr, rmse, ssim

__all__ = [
    "BACKBONE_FILE",
    "FROZEN",
    "HEADS_FILE",
    "INCEPTION_FILE",
    "MAIN",
    "METRICS",
    "PSNR_CAP",
    "Features",
    "InceptionFeatures",
    "Lpips",
    "Metric",
    "Needs",
    "accuracy_within",
    "add_metrics",
    "added_metrics",
    "class_accuracy",
    "class_iou",
    "confusions",
    "frechet_distance",
    "kernel_distance",
    "lpips",
    "mean_iou",
    "named_iou",
    "psnr",
    "rmse",
    "ssim",
    "with_own",
]
