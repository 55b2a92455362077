"""Normalizing flows: data mapped invertibly to noise."""

from dgm_fast.families.flows.chain import Chain, Inverse
from dgm_fast.families.flows.flow import Flow, FlowConfig
from dgm_fast.families.flows.glow import Glow, GlowConfig
from dgm_fast.families.flows.ica import ICA, ICAConfig
from dgm_fast.families.flows.maf import IAF, MAF, IAFConfig, MAFConfig
from dgm_fast.families.flows.neural_spline import NeuralSplineFlow, NeuralSplineFlowConfig
from dgm_fast.families.flows.nice import NICE, NICEConfig
from dgm_fast.families.flows.realnvp import RealNVP, RealNVPConfig

__all__ = [
    "IAF",
    "ICA",
    "MAF",
    "NICE",
    "Chain",
    "Flow",
    "FlowConfig",
    "Glow",
    "GlowConfig",
    "IAFConfig",
    "ICAConfig",
    "Inverse",
    "MAFConfig",
    "NICEConfig",
    "NeuralSplineFlow",
    "NeuralSplineFlowConfig",
    "RealNVP",
    "RealNVPConfig",
]
