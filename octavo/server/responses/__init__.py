"""OpenAI's Responses API: a dialect of chat completions that keeps what was said."""
