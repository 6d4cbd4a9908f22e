"""What recall works with: descriptors, similarity formulas, index. A leaf: imports no other house."""

from retrieval.coverage import coverage_at_k, coverage_loss, recall_at_k
from retrieval.descriptor import (
    LearnedDescriptor,
    LearnedDescriptorSettings,
    PooledDescriptor,
    PooledDescriptorSettings,
)
from retrieval.hybrid_index import HybridIndex, HybridIndexSettings
from retrieval.similarity import exponential_time, gaussian_time, hybrid, latent_cosine, paper_hybrid
from retrieval.spread import candidates_needed, spread

__all__ = [
    "HybridIndex",
    "HybridIndexSettings",
    "LearnedDescriptor",
    "LearnedDescriptorSettings",
    "PooledDescriptor",
    "PooledDescriptorSettings",
    "candidates_needed",
    "coverage_at_k",
    "coverage_loss",
    "exponential_time",
    "gaussian_time",
    "hybrid",
    "latent_cosine",
    "paper_hybrid",
    "recall_at_k",
    "spread",
]
