"""Model output to events: text, thoughts, tool calls. Knows nothing of HTTP, prompts or tokens.

`chain.build` makes the parser of one answer, `choose.choose` finds the names for a chat template.
"""
