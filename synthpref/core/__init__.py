"""The language of the project: types and pure functions. No I/O, no event loop, no import of other rooms."""
