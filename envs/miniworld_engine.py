"""The same mazes in MiniWorld: another renderer, other looks, no Doom. Needs the extra `miniworld`."""

import math
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from importlib.metadata import PackageNotFoundError, version
from io import StringIO
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from envs import palette
from envs.maze_map import MazeMap
from envs.room import PLAYER_RADIUS, MazeMapSettings, Spawn

METRE = 64.0
"""Map units."""
EYE = 0.64
"""Metres above the floor: 41 map units, as high as the other engine's."""
FOV_Y_DEG = math.degrees(2 * math.atan(3 / 4))
"""Of pictures four wide and three high whose view is 90 degrees wide."""
CARRY, WALK, STRAFE = 0.675, 10.7, 9.1
"""Share of its speed that a player keeps from step to step, and units a step that a held key adds: 33 at full speed."""
TURNS_DEG = (7.03, 14.06)
"""A turn key's first step, and every later one."""
WALLS = (
    "brick_wall", "wood", "stucco", "cinder_blocks", "marble", "wood_planks", "rock", "metal_grill", "cardboard", "drywall",
    "concrete_tiles", "lava", "slime", "picket_fence", "airduct_grate",
)  # fmt: skip
FLOORS = ("floor_tiles_bw", "grass", "asphalt", "concrete", "concrete_tiles", "wood_planks", "water")
CEILINGS = ("concrete", "ceiling_tiles", "ceiling_tile_noborder", "white")
COLOURS = ("red", "green", "blue", "purple", "yellow", "grey")


def miniworld_version() -> str:
    """As headers tell it. ValueError, one line, where it is not installed."""
    try:
        return f"miniworld {version('miniworld')}"
    except PackageNotFoundError:
        raise ValueError("miniworld is not installed; run pip install 'worldsim[miniworld]'") from None


class MiniWorldEngine:
    """One world of MiniWorld, drawn without a screen; it moves the player as the maze's other engine does."""

    def __init__(self, width: int, height: int, settings: MazeMapSettings) -> None:
        """Screens of width × height pixels. ValueError where MiniWorld or OpenGL is missing."""
        self._settings = settings
        self._world = _new_world(width, height)
        self._moved, self._turned = np.zeros(2), 0
        self._tic = 0

    def load(self, maze_map: MazeMap, spawn: Spawn) -> None:
        """Build the map and stand the player there."""
        self._world.plan = maze_map, self._settings, spawn
        self._world.reset(seed=0)
        self._world.agent.cam_height, self._world.agent.cam_fov_y = EYE, FOV_Y_DEG
        self._world.agent.cam_fwd_disp = self._world.agent.cam_pitch = 0.0
        self._world.agent.radius = PLAYER_RADIUS / METRE
        self._moved, self._turned, self._tic = np.zeros(2), 0, 0

    def advance(self, values: list[int], tics: int) -> None:
        """Turn, then push the way the keys say and slide on; along walls where they stand in the way."""
        move, turn, strafe = (0 if value == 0 else 3 - 2 * value for value in values)
        agent = self._world.agent
        step_deg = TURNS_DEG[0] if turn != self._turned else TURNS_DEG[1]
        agent.dir = (agent.dir + math.radians(turn * step_deg)) % math.tau
        self._turned = turn
        ahead = np.array([math.cos(agent.dir), math.sin(agent.dir)])
        left = np.array([-ahead[1], ahead[0]])
        self._moved = CARRY * self._moved + WALK * move * ahead + STRAFE * strafe * left
        for axis in (0, 1):
            step = np.zeros(3)
            step[(0, 2)[axis]] = (1.0, -1.0)[axis] * self._moved[axis] / METRE
            if self._world.intersect(agent, agent.pos + step, agent.radius):
                self._moved[axis] = 0.0
            else:
                agent.pos = agent.pos + step
        self._tic += tics

    def look(self) -> tuple[UInt8[np.ndarray, "screen_height screen_width 3"], Float32[np.ndarray, "4"], int]:
        """The screen, the pose (x, y, z in map units, yaw in degrees) and the tics since the start."""
        agent = self._world.agent
        x, _, z = agent.pos
        pose = np.array([x * METRE, -z * METRE, 0.0, math.degrees(agent.dir) % 360.0], np.float32)
        return np.ascontiguousarray(self._world.render_obs()), pose, self._tic

    def look_depth(self) -> Float32[np.ndarray, "screen_height screen_width"]:
        """Map units along the view's axis."""
        self._world.render_obs()
        depth: Float32[np.ndarray, "screen_height screen_width"] = self._world.render_depth()[:, :, 0] * METRE
        return depth.astype(np.float32)

    def on_one_cpu(self) -> AbstractContextManager[None]:
        """It has no process of its own."""
        return nullcontext()

    def close(self) -> None:
        """Harmless when done twice."""
        self._world.close()


def _new_world(width: int, height: int) -> Any:
    """A world that builds `plan` at every reset."""
    miniworld_version()
    try:
        import pyglet

        pyglet.options["headless"] = True  # before anything of pyglet opens a window
        from miniworld.entity import Box
        from miniworld.miniworld import MiniWorldEnv
    except Exception as error:
        raise ValueError(
            f"MiniWorld does not start ({error}); it needs OpenGL with EGL (libegl1, libgl1)"
        ) from None

    class Maze(MiniWorldEnv):
        plan: tuple[MazeMap, MazeMapSettings, Spawn]

        def _gen_world(self) -> None:
            maze_map, settings, spawn = self.plan
            rooms = [self._room(room, settings) for room in maze_map.rooms]
            for door in maze_map.doors:
                x0, y0, x1, y1 = (side / METRE for side in door.box)
                where = {"min_z": -y1, "max_z": -y0} if door.eastward else {"min_x": x0, "max_x": x1}
                first, second = rooms[door.first], rooms[door.second]
                self.connect_rooms(first, second, max_y=settings.door_height / METRE, **where)
            for thing in maze_map.things:
                colour = COLOURS[palette.DECORATIONS.index(thing.kind) % len(COLOURS)]
                box = Box(color=colour, size=[0.3, 0.7, 0.3])
                box.radius = thing.kind.radius / METRE
                self.place_entity(box, pos=np.array([thing.x / METRE, 0.0, -thing.y / METRE]), dir=0.0)
            pos = np.array([spawn.x / METRE, 0.0, -spawn.y / METRE])
            self.place_entity(self.agent, pos=pos, dir=math.radians(spawn.yaw_deg))

        def _room(self, room: Any, settings: MazeMapSettings) -> Any:
            x0, y0, x1, y1 = (side / METRE for side in room.box)
            return self.add_rect_room(
                min_x=x0, max_x=x1, min_z=-y1, max_z=-y0, wall_height=settings.height / METRE,
                wall_tex=WALLS[list(palette.WALLS).index(room.wall) % len(WALLS)],
                floor_tex=FLOORS[palette.FLOORS.index(room.floor) % len(FLOORS)],
                ceil_tex=CEILINGS[palette.CEILINGS.index(room.ceiling) % len(CEILINGS)],
            )  # fmt: skip

    world = Maze.__new__(Maze)
    first = MazeMap.generate(0)
    world.plan = first, MazeMapSettings(), first.spawn(np.random.default_rng(0))
    with redirect_stdout(StringIO()):  # it tells how many samples the driver has
        world.__init__(max_episode_steps=1 << 40, obs_width=width, obs_height=height, domain_rand=False)  # type: ignore[misc]
    return world
