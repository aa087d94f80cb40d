"""Text on its way to token ids and back. Knows nothing of requests, HTTP or devices; never torch."""
