"""Fused optimisers: one, for its contract."""

from .fused_adam import NpuFusedAdam

__all__ = ['NpuFusedAdam']
