"""What vLLM's users pass through extra_body, and what they read back."""

from openai import OpenAI

client = OpenAI(api_key="EMPTY", base_url="http://localhost:8000/v1")
model = client.models.list().data[0].id
completion = client.completions.create(
    model=model,
    prompt="A robot may not injure a human being",
    echo=True,
    n=2,
    logprobs=3,
    max_tokens=4,
    extra_body={"top_k": 5, "min_p": 0.01, "repetition_penalty": 1.05, "ignore_eos": True, "min_tokens": 4},
)
for choice in completion.choices:
    assert choice.text.startswith("A robot may not injure a human being")
    assert len(choice.logprobs.tokens) == len(choice.logprobs.token_logprobs) > 4
chat = client.chat.completions.create(
    model=model,
    messages=[{"role": "user", "content": [{"type": "text", "text": "Name a colour."}]}],
    max_tokens=8,
    logprobs=True,
    top_logprobs=2,
    extra_body={
        "return_token_ids": True,
        "stop_token_ids": [0],
        "add_generation_prompt": True,
        "echo": False,
    },
)
choice = chat.choices[0]
assert len(choice.token_ids) == len(choice.logprobs.content) == chat.usage.completion_tokens
assert len(chat.prompt_token_ids) == chat.usage.prompt_tokens
print("fine")
