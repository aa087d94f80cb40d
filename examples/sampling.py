"""Several answers, where they stop, and how likely each token was."""

from octavo import LLM, SamplingParams

params = SamplingParams(n=3, temperature=1.0, max_tokens=24, stop=[".", "\n"], logprobs=2, seed=7)

with LLM() as llm:
    (output,) = llm.generate("My favourite colour is", params)

for answer in output.outputs:
    print(f"{answer.text!r}: ended by {answer.finish_reason} ({answer.stop_reason!r})")
    print(f"  log-probability {answer.cumulative_logprob:.2f} over {len(answer.token_ids)} tokens")
    first = answer.logprobs[0]
    print("  first token or:", [choice.decoded_token for choice in first.values()])
