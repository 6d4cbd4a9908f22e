"""Two worlds under the same actions: one remembers."""

import numpy as np

from worldsim.checkpoint import WorldModels
from worldsim.memory_pair import MemoryPair
from worldsim.world import World, WorldSettings


def test_both_are_the_worlds_they_are_named_for(tiny_models: WorldModels) -> None:
    """Swapped rows, or a memory left on, would turn every film upside down."""
    pair, seed = MemoryPair(tiny_models, seed=1), 1
    worlds = [World(tiny_models, WorldSettings(memory_mode=mode)) for mode in ("off", "hybrid")]
    first = [world.reset(seed)[-1] for world in worlds]
    assert np.array_equal(first[0], pair.first.off_u8)
    assert np.array_equal(first[1], pair.first.hybrid_u8)
    recalled = 0
    for step in range(24):
        actions = np.array([[step % 3, 1, 0]])
        (moment,) = pair.step(actions)
        off, hybrid = (world.step(actions) for world in worlds)
        assert np.array_equal(moment.off_u8, off.frames_u8[0])
        assert np.array_equal(moment.hybrid_u8, hybrid.frames_u8[0])
        assert moment.ages == tuple(pick.age for pick in hybrid.recalled)
        assert np.array_equal(moment.pose, worlds[1].where.pose[0].numpy())
        recalled += len(moment.recalled_u8)
    assert recalled
