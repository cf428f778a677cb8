"""The outer doors: sources in, datasets, cards and reports out. Imports only core."""
