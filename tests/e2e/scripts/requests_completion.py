import requests


def query_vllm(prompt, max_tokens=100):
    response = requests.post(
        "http://localhost:8000/v1/completions",
        json={"model": "your-model", "prompt": prompt, "max_tokens": max_tokens, "temperature": 0.7},
    )
    return response.json()


print(query_vllm("The capital of France is", max_tokens=5)["choices"][0]["text"])
