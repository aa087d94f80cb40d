"""HTTP: routes, wire types, middleware. Knows the front, never the engine's inside."""
