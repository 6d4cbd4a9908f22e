"""How well a world model rebuilds what it has seen, and how far it drifts: tables and film strips."""
