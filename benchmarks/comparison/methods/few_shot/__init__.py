"""Few-shot networks, trained in episodes: HSNet and SSP."""
