"""The shared vocabulary: messages, facts, errors. Standard library and msgspec only, never torch."""
