"""The commands, one function each: options in, lines out; what they do is elsewhere."""
