# SPDX-License-Identifier: MIT
"""What transformers makes of chat templates: apply_chat_template.py JOBS OUT. JOBS is a JSON list of
[template, messages]; OUT gets, as JSON, for each the text up to where the answer begins, or null
where the template refuses. Runs in QUANTFS_FULL_PYTHON."""

import json
import sys

import tokenizers
import transformers


def render(template, messages):
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer(tokenizers.models.BPE()), bos_token="<s>",
        eos_token="</s>")
    try:
        return tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False,
                                             add_generation_prompt=True)
    except Exception as error:  # whatever a stranger's program may do
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return None


if __name__ == "__main__":
    with open(sys.argv[1]) as jobs:
        results = [render(*job) for job in json.load(jobs)]
    with open(sys.argv[2], "w") as out:
        json.dump(results, out)
