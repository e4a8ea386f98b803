"""
Draws the latents of export.json, beside this file, with SAEDashboard: dashboards.html, or Neuronpedia's batch-*.json.

It needs an environment with sae-dashboard 0.8.0 and pyarrow < 20, and nothing of the package that wrote it. `model_id`
and `sae_set` of export.json are what Neuronpedia is to call the model and the SAE: change them there first.
"""

import json
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

HERE = Path(__file__).parent
AT_A_TIME = 128  # latents, as Neuronpedia's runner has them in a file
PROMPTS = 32
# hooks whose activations are the same once the last normalisation is folded into the unembedding
_RESIDUAL = re.compile(
    r"blocks\.\d+\.hook_(resid_pre|resid_mid|resid_post|attn_out|mlp_out)"
)


def hooked_model(settings: dict[str, Any], n_ctx: int) -> Any:
    """The language model, with the residual stream that the SAE was trained on."""
    folds = _RESIDUAL.fullmatch(settings["hook"]) is not None
    processing = {
        "fold_ln": folds,
        "center_unembed": folds,
        "center_writing_weights": False,
        "fold_value_biases": False,
    }
    hooked = import_module("sae_lens").HookedSAETransformer
    path, kwargs = settings["model"], settings["model_kwargs"]
    if not Path(path).is_dir():
        return hooked.from_pretrained(path, device="cpu", **{**processing, **kwargs})
    # TransformerLens takes models by the names that it knows; a folder's is built by hand
    loading = import_module("transformer_lens.loading_from_pretrained")
    auto = import_module("transformers").AutoModelForCausalLM
    cfg = loading.get_pretrained_model_config(
        path, fold_ln=folds, device="cpu", n_ctx=n_ctx
    )
    cfg.tokenizer_name = None  # it is given below
    cfg.rotary_base = rotary_base(Path(path)) or cfg.rotary_base
    model = hooked(cfg)
    hf_model = auto.from_pretrained(path, **kwargs)
    weights = loading.get_pretrained_state_dict(path, cfg, hf_model)
    model.load_and_process_state_dict(weights, **processing)
    model.tokenizer = tokenizer_of(Path(path))
    return model


def rotary_base(path: Path) -> float | None:
    """Of a model, by its config: older and newer versions of transformers write it in two places."""
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    parameters = config.get("rope_parameters") or {}
    return config.get("rope_theta") or parameters.get("rope_theta")


def tokenizer_of(path: Path) -> Any:
    """A model's tokenizer; one that a newer transformers saved names a class that an older one has not."""
    said = json.loads((path / "tokenizer_config.json").read_text(encoding="utf-8"))
    names = ("bos_token", "eos_token", "pad_token", "unk_token")
    special = {name: said[name] for name in names if isinstance(said.get(name), str)}
    fast = import_module("transformers").PreTrainedTokenizerFast
    return fast(tokenizer_file=str(path / "tokenizer.json"), **special)


def config(settings: dict[str, Any], latents: list[int], tokenizer: Any) -> Any:
    """What SAEDashboard is to draw; as Neuronpedia's runner has it, special tokens are left out."""
    special = (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id)
    parts = import_module("sae_dashboard.components_config")
    layout = import_module("sae_dashboard.layout")
    changed = {}
    if settings["to"] == "neuronpedia":
        sequences = parts.SequencesConfig(
            stack_mode="stack-all",
            buffer=None,
            compute_buffer=True,
            n_quantiles=5,
            top_acts_group_size=20,
            quantile_group_size=5,
        )
        column = layout.Column(
            sequences,
            parts.ActsHistogramConfig(),
            parts.LogitsHistogramConfig(),
            parts.LogitsTableConfig(),
            parts.FeatureTablesConfig(n_rows=3),
        )
        changed["feature_centric_layout"] = layout.SaeVisLayoutConfig(columns=[column])
    return import_module("sae_dashboard.sae_vis_data").SaeVisConfig(
        hook_point=settings["hook"],
        features=latents,
        minibatch_size_features=AT_A_TIME,
        minibatch_size_tokens=PROMPTS,
        ignore_tokens={*settings["ignored_tokens"], *special} - {None},
        ignore_positions=settings["ignored_positions"],
        verbose=True,
        **changed,
    )


def draw(settings: dict[str, Any], latents: list[int], model: Any, tokens: Any) -> Any:
    """SAEDashboard's data of some latents."""
    # loaded anew: the runner folds the decoder's norms into it
    sae = import_module("sae_lens").SAE.load_from_disk(HERE / "sae", dtype="float32")
    runner = import_module("sae_dashboard.sae_vis_runner").SaeVisRunner
    data = runner(config(settings, latents, model.tokenizer)).run(
        encoder=sae, model=model, tokens=tokens
    )
    data.model = model
    return data


def as_neuronpedia(settings: dict[str, Any], data: Any, model: Any, tokens: Any) -> str:
    """The file of a batch of latents, by SAEDashboard's own converter."""
    runner = import_module("sae_dashboard.neuronpedia.neuronpedia_runner")
    converter = import_module("sae_dashboard.neuronpedia.neuronpedia_converter")
    cfg = import_module("sae_dashboard.neuronpedia.neuronpedia_runner_config")
    np_cfg = cfg.NeuronpediaRunnerConfig(
        sae_set=settings["sae_set"],
        sae_path=str(HERE / "sae"),
        outputs_dir=str(HERE),
        huggingface_dataset_path=settings["dataset"],
        n_prompts_total=tokens.shape[0],
        n_tokens_in_prompt=tokens.shape[1],
        model_id=settings["model_id"],
        layer=settings["layer"],
    )
    # its method for the names of tokens uses nothing of a runner but the model
    holder = type("", (), {"model": model})()
    vocabulary = runner.NeuronpediaRunner.get_vocab_dict(holder)
    convert = converter.NeuronpediaConverter.convert_to_np_json
    return convert(model, data, np_cfg, vocabulary)


def main() -> None:
    settings = json.loads((HERE / "export.json").read_text(encoding="utf-8"))
    tokens = load_file(HERE / "tokens.safetensors")["tokens"]
    model = hooked_model(settings, tokens.shape[1])
    latents = settings["latents"]
    if settings["to"] == "saedashboard":
        writing = import_module("sae_dashboard.data_writing_fns")
        data = draw(settings, latents, model, tokens)
        writing.save_feature_centric_vis(data, HERE / "dashboards.html")
        return
    for number, first in enumerate(range(0, len(latents), AT_A_TIME)):
        data = draw(settings, latents[first : first + AT_A_TIME], model, tokens)
        text = as_neuronpedia(settings, data, model, tokens)
        (HERE / f"batch-{number}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    with torch.no_grad():
        main()
