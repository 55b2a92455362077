"""Normalizing flows: data mapped invertibly to noise."""

from dgm_fast.families.flows.chain import Chain, Inverse
from dgm_fast.families.flows.flow import Flow, FlowConfig
from dgm_fast.families.flows.glow import Glow, GlowConfig
from dgm_fast.families.flows.nice import NICE, NICEConfig
from dgm_fast.families.flows.realnvp import RealNVP, RealNVPConfig

__all__ = [
    "NICE",
    "Chain",
    "Flow",
    "FlowConfig",
    "Glow",
    "GlowConfig",
    "Inverse",
    "NICEConfig",
    "RealNVP",
    "RealNVPConfig",
]
