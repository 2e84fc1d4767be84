"""LoRA on the language model's projections, with the peft library; adapters lie on disk in PEFT's own format.

Injected in place: the model keeps its class, its ``forward`` and its parameters' names, so that training and
checkpoints need to know nothing of it. Queries and space decoder are new modules and learn whole, outside the adapter.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import Tensor

from spacevllm.model.modeling import NEW_MODULES, SpaceVLLM
from spacevllm.model.weights import CheckpointError, check_fit, read_json, read_table

ADAPTER, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
NON_LORA = "non_lora_trainables.safetensors"  # LLaVA's name for what was trained beside the adapter
# the vision tower has a q_proj, too: only whole names below the language model match
TARGETS = r".*language_model\.layers\.\d+\.(self_attn|mlp)\.(q|k|v|o|gate|up|down)_proj"
_PEFT_PREFIX, _BACKBONE = "base_model.model.", "backbone."
_ADVICE = "was the adapter trained on this model?"


def add_lora(model: SpaceVLLM, rank: int = 128, alpha: int = 256, dropout: float = 0.0) -> SpaceVLLM:
    """``model`` itself with LoRA in its language model: W + alpha / rank * B A, B zero, so nothing changes yet.

    Only the adapter and the new modules require gradients afterwards; who also trains the projector or
    the tower says so after this call.

    Args:
        dropout: probability in [0, 1) on the adapter's input.
    """
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=TARGETS, bias="none")
    inject_adapter_in_model(config, model)
    for name, parameter in model.named_parameters():
        if name.split(".")[0] in NEW_MODULES:
            parameter.requires_grad_(True)
    return model


def save_adapter(model: SpaceVLLM, folder: str | Path, state_dict: Mapping[str, Tensor] | None = None) -> None:
    """The adapter as PEFT writes it, and beside it everything else that was trained.

    Args:
        state_dict: of ``model``, where its parameters are sharded and were gathered elsewhere.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = dict(model.state_dict() if state_dict is None else state_dict)
    adapter = get_peft_model_state_dict(model, weights)
    trained = {name for name, p in model.named_parameters() if p.requires_grad and "lora_" not in name}
    _save({_PEFT_PREFIX + name: tensor for name, tensor in adapter.items()}, folder / ADAPTER)
    _save({name: weights[name] for name in trained}, folder / NON_LORA)
    model.peft_config["default"].save_pretrained(folder)


def fold_lora(model: SpaceVLLM) -> SpaceVLLM:
    """``model`` itself with the adapter added into the weights and its layers gone: a plain model again.

    Raises:
        ValueError: the sum is not finite.
    """
    for name, module in list(model.named_modules()):
        if isinstance(module, LoraLayer):
            module.merge(safe_merge=True)
            model.set_submodule(name, module.get_base_layer())
    del model.peft_config
    return model


def merge_lora(base: SpaceVLLM, folder: str | Path) -> SpaceVLLM:
    """``base`` itself with a saved adapter added into its weights, and what was trained beside it put in place.

    Args:
        folder: in PEFT's format, of ``save_adapter`` or of PEFT's own ``save_pretrained``.

    Raises:
        FileNotFoundError: no adapter there, or only a pickled one.
        CheckpointError: damaged, not LoRA, or made for another model; the message lists what does not fit.
    """
    folder = Path(folder)
    adapter, beside = _read_adapter(folder)
    shapes = {name: tuple(weight.shape) for name, weight in base.state_dict().items()}
    check_fit(folder / NON_LORA, shapes, _shapes(beside), optional=shapes, advice=_ADVICE)
    inject_adapter_in_model(_adapter_config(folder), base)
    expected = _shapes({_PEFT_PREFIX + name: w for name, w in get_peft_model_state_dict(base).items()})
    check_fit(folder / ADAPTER, expected, _shapes(adapter), advice=_ADVICE)
    set_peft_model_state_dict(base, {name.removeprefix(_PEFT_PREFIX): w for name, w in adapter.items()})
    fold_lora(base).load_state_dict(beside, strict=False)
    return base.eval()


def _read_adapter(folder: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    for name in (ADAPTER_CONFIG, ADAPTER):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} is not a LoRA adapter: it has no {name} (pickled weights are refused)")
    files = [folder / ADAPTER, folder / NON_LORA]
    for file in files:
        if file.is_file():
            read_table(file)  # says which is damaged
    adapter, beside = (load_file(file) if file.is_file() else {} for file in files)
    named = {_PEFT_PREFIX + _owned(name.removeprefix(_PEFT_PREFIX)): weight for name, weight in adapter.items()}
    return named, {_owned(name): weight for name, weight in beside.items()}


def _owned(name: str) -> str:
    """A weight's name in ``SpaceVLLM``; what was trained on the backbone alone, or by an earlier version, lacks its
    prefix."""
    return _BACKBONE + name if name.startswith(("model.", "lm_head.")) else name


def _adapter_config(folder: Path) -> LoraConfig:
    tree = read_json(folder / ADAPTER_CONFIG)
    if tree.get("peft_type") != "LORA":
        raise CheckpointError(f"{folder / ADAPTER_CONFIG}: peft_type is {tree.get('peft_type')!r}, not LORA")
    return LoraConfig.from_pretrained(str(folder))


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _save(tensors: Mapping[str, Tensor], path: Path) -> None:
    save_file({name: t.detach().contiguous() for name, t in tensors.items()}, path, metadata={"format": "pt"})
