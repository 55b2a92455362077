"""Models with a latent variable."""

from dgm_fast.families.latent.config import VAEConfig
from dgm_fast.families.latent.diagnostics import LatentDiagnostics, latent_diagnostics
from dgm_fast.families.latent.vae import VAE, VAEOutput

__all__ = ["VAE", "LatentDiagnostics", "VAEConfig", "VAEOutput", "latent_diagnostics"]
