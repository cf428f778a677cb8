"""The machine: recipe in, run folder out. Imports only core."""
