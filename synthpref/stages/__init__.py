"""The words of a recipe, a family to a file. Imports only core."""
