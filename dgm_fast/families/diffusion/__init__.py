"""Models that learn to undo noise, step by step."""

from dgm_fast.families.diffusion.bound import BoundTerms
from dgm_fast.families.diffusion.config import DDPMConfig
from dgm_fast.families.diffusion.ddpm import DDPM
from dgm_fast.families.diffusion.schedules import Schedule
from dgm_fast.families.diffusion.unet import UNet

__all__ = ["DDPM", "BoundTerms", "DDPMConfig", "Schedule", "UNet"]
