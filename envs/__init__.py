"""Real worlds to learn from, as gymnasium environments: `WorldSim/Maze-v0` and `WorldSim/MiniWorldMaze-v0`.

Importing this registers them.
"""

import gymnasium

gymnasium.register(id="WorldSim/Maze-v0", entry_point="envs.maze:MazeEnv")
gymnasium.register(id="WorldSim/MiniWorldMaze-v0", entry_point="envs.miniworld_maze:MiniWorldMazeEnv")
