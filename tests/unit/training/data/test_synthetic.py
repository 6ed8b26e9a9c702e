from __future__ import annotations

import numpy as np

from training.data.synthetic import synthetic_scene


def test_scene_is_decided_by_its_seed() -> None:
    first, again, other = synthetic_scene(3, 128), synthetic_scene(3, 128), synthetic_scene(4, 128)
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.instances, again.instances)
    assert not np.array_equal(first.image, other.image)


def test_entities_differ_from_the_ground() -> None:
    """Most scenes hold several entities whose mean colour is not that of the ground around."""
    visible = 0
    for seed in range(12):
        scene = synthetic_scene(seed, 128)
        assert scene.image.shape == (128, 128, 3)
        assert scene.instances.max() >= 2
        ground = scene.image[scene.instances == 0].mean(0)
        entities = scene.image[scene.instances > 0].mean(0)
        visible += bool(np.abs(ground - entities).max() > 10)
    assert visible >= 9
