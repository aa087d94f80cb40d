"""Ask a question, then ask on."""

from octavo import LLM, SamplingParams

params = SamplingParams(temperature=0, max_tokens=48)
messages = [{"role": "user", "content": "What is the capital of France?"}]

with LLM() as llm:
    answer = llm.chat(messages, params)[0].outputs[0].text
    print(answer)
    messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": "And of Italy?"}]
    print(llm.chat(messages, params)[0].outputs[0].text)
