"""The commands, one short function each: parse, call one thing, show what came of it."""
