"""What recall works with: descriptors, similarity formulas, index. A leaf: imports no other house."""

from retrieval.coverage import coverage_at_k, coverage_loss, recall_at_k
from retrieval.descriptor import (
    LearnedDescriptor,
    LearnedDescriptorSettings,
)
from retrieval.hybrid_index import HybridIndex, HybridIndexSettings
from retrieval.landmarks import Landmarks
from retrieval.motion import Motion, fit_motion
from retrieval.odometer import Odometer, OdometerSettings
from retrieval.place import PlaceSettings, place_keys, place_queries
from retrieval.similarity import exponential_time, gaussian_time, hybrid, latent_cosine, paper_hybrid
from retrieval.spread import best_of_rest, candidates_needed, spread
from retrieval.whereabouts import Followed, Whereabouts

__all__ = [
    "Followed",
    "HybridIndex",
    "HybridIndexSettings",
    "Landmarks",
    "LearnedDescriptor",
    "LearnedDescriptorSettings",
    "Motion",
    "Odometer",
    "OdometerSettings",
    "PlaceSettings",
    "Whereabouts",
    "best_of_rest",
    "candidates_needed",
    "coverage_at_k",
    "coverage_loss",
    "exponential_time",
    "fit_motion",
    "gaussian_time",
    "hybrid",
    "latent_cosine",
    "paper_hybrid",
    "place_keys",
    "place_queries",
    "recall_at_k",
    "spread",
]
