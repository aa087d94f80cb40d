"""A program written for vLLM, with the imports such programs have."""

import sys

from vllm import LLM, EngineArgs, RequestOutput, SamplingParams, TokensPrompt
from vllm.sampling_params import RequestOutputKind
from vllm.utils import FlexibleArgumentParser, random_uuid
from vllm.v1.metrics.reader import Counter

parser = FlexibleArgumentParser()
EngineArgs.add_cli_args(parser)
parser.add_argument("--prompt", default="The capital of France is")
args = parser.parse_args()

assert RequestOutputKind.DELTA.value == 1 and len(random_uuid()) == 32
llm = LLM.from_engine_args(EngineArgs.from_cli_args(args))
params = SamplingParams(temperature=0, max_tokens=4)
ids = llm.get_tokenizer().encode(args.prompt)
outputs = llm.generate([args.prompt, TokensPrompt(prompt_token_ids=ids)], params, use_tqdm=False)
assert all(isinstance(output, RequestOutput) for output in outputs)
assert outputs[0].outputs[0].token_ids == outputs[1].outputs[0].token_ids
assert any(isinstance(metric, Counter) and metric.value for metric in llm.get_metrics())
try:
    import vllm.model_executor  # noqa: F401
except ImportError as error:
    assert "Octavo" in str(error)
print("answer:", outputs[0].outputs[0].text.strip(), "script:", sys.argv[0])
