"""Complete several prompts at once."""

from octavo import LLM, SamplingParams

prompts = ["The capital of France is", "def fibonacci(n):", "Once upon a time"]
params = SamplingParams(temperature=0.8, top_p=0.95, max_tokens=32, seed=1)

with LLM() as llm:  # the default model; or LLM("/path/to/folder"), LLM("model.gguf"), LLM("org/name")
    for output in llm.generate(prompts, params):
        print(repr(output.prompt), "->", repr(output.outputs[0].text))
