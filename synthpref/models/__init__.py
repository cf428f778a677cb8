"""The door to models: wire formats, limits and the simulated world. Imports only core."""
