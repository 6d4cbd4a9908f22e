"""Real worlds to learn from, as gymnasium environments. Importing this registers `WorldSim/Maze-v0`."""

import gymnasium

gymnasium.register(id="WorldSim/Maze-v0", entry_point="envs.maze:MazeEnv")
