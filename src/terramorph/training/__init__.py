"""Training: configuration, the pix2pix update, and the training loop."""

from terramorph.training.config import TrainConfig
from terramorph.training.cost import Cost
from terramorph.training.finetune import config_of
from terramorph.training.loop import require_new_run, resume, train
from terramorph.training.recalibrate import recalibrate, recalibrate_network
from terramorph.training.reporter import Plan, Reporter, StepReport, TrainResult
from terramorph.training.settings import PRESETS, known_keys, load_config, parse_assignments, parse_config
from terramorph.training.terms import Features, Term
from terramorph.training.validation import Validation

__all__ = [
    "PRESETS",
    "Cost",
    "Features",
    "Plan",
    "Reporter",
    "StepReport",
    "Term",
    "TrainConfig",
    "TrainResult",
    "Validation",
    "config_of",
    "known_keys",
    "load_config",
    "parse_assignments",
    "parse_config",
    "recalibrate",
    "recalibrate_network",
    "require_new_run",
    "resume",
    "train",
]
