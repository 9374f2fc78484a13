"""Figures that say how good a translation is. Tensors in, numbers out."""

from terramorph.metrics.distribution import InceptionFid, frechet_distance, kernel_distance, why_no_fid
from terramorph.metrics.inception import INCEPTION_FILE, InceptionFeatures
from terramorph.metrics.mapwise import class_accuracy, class_iou, confusion_matrix, mean_iou
from terramorph.metrics.perceptual import BACKBONE_FILE, HEADS_FILE, Features, Lpips, SqueezeNetFeatures
from terramorph.metrics.pixelwise import PSNR_CAP, acc5, acc10, accuracy_within, psnr, rmse, ssim
from terramorph.metrics.seams import seam_ratio, tiling_agreement

__all__ = [
    "BACKBONE_FILE",
    "HEADS_FILE",
    "INCEPTION_FILE",
    "PSNR_CAP",
    "Features",
    "InceptionFeatures",
    "InceptionFid",
    "Lpips",
    "SqueezeNetFeatures",
    "acc5",
    "acc10",
    "accuracy_within",
    "class_accuracy",
    "class_iou",
    "confusion_matrix",
    "frechet_distance",
    "kernel_distance",
    "mean_iou",
    "psnr",
    "rmse",
    "seam_ratio",
    "ssim",
    "tiling_agreement",
    "why_no_fid",
]
