from __future__ import annotations

import numpy as np
from PIL import Image

from training.data.sample import fingerprint, highest_similarity
from training.data.synthetic import synthetic_scene


def test_highest_similarity_of_transformed_image_is_high() -> None:
    scene = synthetic_scene(0, 128).image
    known = [fingerprint(synthetic_scene(seed, 128).image) for seed in range(6)]
    shown = {
        "resized": np.asarray(Image.fromarray(scene).resize((200, 200))),
        "darker": (scene * 0.6).astype(np.uint8),
        "turned": np.rot90(scene).copy(),
        "mirrored": scene[:, ::-1].copy(),
    }
    for name, image in shown.items():
        assert highest_similarity(fingerprint(image), known) > 0.97, name


def test_highest_similarity_of_other_images_is_low() -> None:
    known = [fingerprint(synthetic_scene(seed, 128).image) for seed in range(6)]
    assert highest_similarity(fingerprint(synthetic_scene(99, 128).image), known) < 0.95
    assert highest_similarity(known[0], []) == -1
