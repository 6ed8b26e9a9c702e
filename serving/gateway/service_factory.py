"""Factory that wires the parts of the segmentation service together."""

from __future__ import annotations

from serving.gateway.config import GatewayConfig
from serving.gateway.inference.embedder import Embedder
from serving.gateway.inference.embedding_cache import EmbeddingCache
from serving.gateway.inference.request_images import RequestImages
from serving.gateway.inference.triton_client import TritonClient
from serving.gateway.metrics import Metrics
from serving.gateway.rpc import RpcRunner
from serving.gateway.scheduling.admission import Admission
from serving.gateway.segmentation.by_class import ClassSegmenter
from serving.gateway.segmentation.by_prompts import PromptSegmenter
from serving.gateway.segmentation.dispatch import SegmentationDispatcher
from serving.gateway.segmentation.mask_generator import EverythingSegmenter
from serving.gateway.servicer import SegmentationService
from serving.gateway.vocabulary.service import VocabularyService
from serving.gateway.vocabulary.store import VocabularyStore

__all__ = ["build_service"]


def build_service(
    config: GatewayConfig,
    rpc: RpcRunner,
    admission: Admission,
    triton: TritonClient,
    metrics: Metrics,
) -> SegmentationService:
    """Build the servicer of one gateway."""
    limits = config.limits
    cache = EmbeddingCache(limits.cache_bytes, metrics)
    images = RequestImages(limits)
    embedder = Embedder(triton, cache, admission, limits)
    store = VocabularyStore(config.classes, config.vocabulary)
    vocabularies = VocabularyService(store, images, embedder)
    dispatcher = SegmentationDispatcher(
        PromptSegmenter(embedder),
        ClassSegmenter(embedder),
        EverythingSegmenter(embedder),
        vocabularies,
    )
    return SegmentationService(rpc, admission, images, dispatcher, vocabularies, limits, metrics)
