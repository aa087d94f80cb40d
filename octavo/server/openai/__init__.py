"""The OpenAI dialect: wire types and what they translate to. Builds no engine request itself."""
