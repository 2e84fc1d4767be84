"""Configuration of SpaceVLLM at any size: a backbone's own configuration plus what the paper adds.

The defaults are the paper's setting (arXiv 2503.13983) or, where it says nothing, the default of the base model
LLaVA-Video-7B; ``tiny_config`` is the same architecture at one million parameters for two CPU cores.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields as dataclass_fields
from typing import Any, ClassVar, Literal, cast

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, LlavaOnevisionConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

# of LLaVA-Video-7B: config.json of lmms-lab/llava-onevision-qwen2-7b-ov, which it continues
QWEN2_7B: dict[str, Any] = {
    "vocab_size": 152064,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
    "tie_word_embeddings": False,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
}


@strict
class SpaceVLLMConfig(PreTrainedConfig):
    r"""
    backbone_config (`PreTrainedConfig`, defaults to LLaVA-Video-7B's):
        Of the video MLLM that reads and writes: a LLaVA-OneVision (SigLIP + projector + Qwen2) or a Qwen3-VL. Its
        fields may also be given flat, as folders without a `backbone_config` hold those of a LLaVA-OneVision.
    num_frames (`int`, defaults to 64):
        Frames sampled from a video, in training and in evaluation; at most `num_queries` - 1.
    num_queries (`int`, defaults to 65):
        Query tokens: `<r_0>` to `<r_63>` after the frames of a video, the last one after a single image.
    prompt_order (`str`, defaults to "video_first"):
        "video_first": everything up to the question is independent of it, so a video is prefilled once and asked many
        times. "caption_first": the question before the video; the queries see it, and nothing can be shared.
    query_layout (`str`, defaults to "interleaved"):
        "interleaved": `<r_i>` right after the tokens of frame i. "appended": all queries after the last frame.
    space_head (`str`, defaults to "queries"):
        "queries": boxes from the space decoder. "text_coordinates": the usual MLLM way, one box a frame as text
        (no queries in the prompt; the decoder is not used).
    time_encoding (`str`, defaults to "list"):
        LLaVA-OneVision. "list": the base model's time instruction after the video. "interleaved": each frame's time as
        text before its tokens (TimeLens: R@0.5 49.4 → 53.9). Qwen3-VL always writes the time before a frame.
    image_pooling (`bool`, defaults to `False`):
        LLaVA-OneVision: whether a single image is pooled like a video frame. The base view keeps all 27x27 tokens.
    tower_frames (`int`, defaults to 1):
        LLaVA-OneVision. 1: the tower sees one frame, as SigLIP does. 3: a frame and its differences to the previous and
        the next one (nine input channels), for a tower that is trained from scratch and has to learn motion.
    frame_tokens (`int`, defaults to 144):
        Qwen3-VL: visual tokens of a frame, at most; 144 are 512x288 pixels.
    outer_vision_tokens (`bool`, defaults to `False`):
        Qwen3-VL: whether another `<|vision_start|>` and `<|vision_end|>` stand around all frames, as the chat template
        of transformers from 5.10 on leaves them.
    queries_in_text_tasks (`bool`, defaults to `False`):
        Whether question answering sees the query tokens too. With `True` all questions about a video share its prefix.
    decoder_attention (`str`, defaults to "parameter_free"):
        The space decoder's two cross-attentions: "parameter_free" or "learned" (projections).
    decoder_cross_attention (`str`, defaults to "dual"):
        "dual": the frame reads the caption, then the query reads the frame. "frame_only": without the first, for
        ablation; with `video_first` nothing then tells the decoder which object is meant.
    decoder_layers (`int`, defaults to 1):
        How often the pair of cross-attentions is applied.
    decoder_hidden_size (`int`, defaults to 512):
        Width of the box MLP.
    presence_head (`bool`, defaults to `False`):
        Whether each frame also gets a logit that what is described goes on in it: what the answer's confidence then is.
        Needs queries.
    pointer_head (`int`, defaults to 0):
        The head of the last language layer that the time-pointer loss supervises.
    wordings (`str`, defaults to "many"):
        In training, "many": about twenty instructions for each task, taken by the instance's id; "one": always the one
        that answering uses.
    system_prompt (`str`, defaults to Qwen2's):
        Text of the system turn; empty: no system turn.

    LLaVA-OneVision's tower is SigLIP-so400m without its 27th layer, as LLaVA cuts it: its last layer
    (`vision_feature_layer` -1) is SigLIP's second to last.
    """

    model_type = "spacevllm"
    sub_configs_defaults: ClassVar[dict[str, SubConfigSpec]] = {
        "backbone_config": SubConfigSpec(config_class=AutoConfig, model_type="llava_onevision")
    }

    backbone_config: dict[str, Any] | PreTrainedConfig | None = None
    num_frames: int = 64
    num_queries: int = 65
    prompt_order: Literal["video_first", "caption_first"] = "video_first"
    query_layout: Literal["interleaved", "appended"] = "interleaved"
    space_head: Literal["queries", "text_coordinates"] = "queries"
    time_encoding: Literal["list", "interleaved"] = "list"
    image_pooling: bool = False
    tower_frames: Literal[1, 3] = 1
    frame_tokens: int = 144
    outer_vision_tokens: bool = False
    queries_in_text_tasks: bool = False
    decoder_attention: Literal["parameter_free", "learned"] = "parameter_free"
    decoder_cross_attention: Literal["dual", "frame_only"] = "dual"
    decoder_layers: int = 1
    decoder_hidden_size: int = 512
    presence_head: bool = False
    pointer_head: int = 0
    wordings: Literal["one", "many"] = "many"
    system_prompt: str = "You are a helpful assistant."

    def __post_init__(self, **kwargs: Any) -> None:
        if self.backbone_config is None:
            flat = {name: kwargs.pop(name) for name in list(kwargs) if name in ONEVISION_FIELDS}
            text = flat.pop("text_config", None) or {"model_type": "qwen2", **QWEN2_7B}
            self.backbone_config = {"model_type": "llava_onevision", "text_config": text, **flat}
        super().__post_init__(**kwargs)
        if self.presence_head and self.space_head != "queries":
            raise ValueError(f"presence_head reads the queries' states: space_head {self.space_head} has none")
        if not 1 <= self.num_frames < self.num_queries:
            raise ValueError(
                f"num_frames is {self.num_frames}, but queries exist for 1 to {self.num_queries - 1} frames; a model "
                f"that is made with more num_queries takes more"
            )
        if self.frame_tokens < 1:
            raise ValueError(f"frame_tokens is {self.frame_tokens}, but a frame needs one at least")

    def has_queries(self, task: str) -> bool:
        """Whether a prompt of this task holds query tokens."""
        return self.space_head == "queries" and (task != "qa" or self.queries_in_text_tasks)

    def get_text_config(self, *_: Any, **__: Any) -> PreTrainedConfig:
        return self.text

    @property
    def image_query(self) -> int:
        """Number of the query that stands behind a single image."""
        return self.num_queries - 1

    @property
    def backbone(self) -> PreTrainedConfig:
        """The backbone's configuration, typed."""
        return cast(PreTrainedConfig, self.backbone_config)

    @property
    def text(self) -> PreTrainedConfig:
        """The language model's configuration, typed."""
        return cast(PreTrainedConfig, self.backbone.text_config)

    @property
    def vision(self) -> PreTrainedConfig:
        """The vision tower's configuration, typed."""
        return cast(PreTrainedConfig, self.backbone.vision_config)


OWN_FIELDS = set(SpaceVLLMConfig.__annotations__) - {"sub_configs_defaults"}
ONEVISION_FIELDS = {f.name for f in dataclass_fields(LlavaOnevisionConfig)} - {
    f.name for f in dataclass_fields(PreTrainedConfig)
}


def tiny_config(
    vocab_size: int, vision: Mapping[str, Any] | None = None, text: Mapping[str, Any] | None = None, **fields: Any
) -> SpaceVLLMConfig:
    """The same architecture at one million parameters: learns Moving Shapes in minutes on two cores.

    Args:
        vocab_size: of the tiny tokenizer.
        vision, text: what differs in the vision tower and the language model. fields: of SpaceVLLMConfig.
    """
    tower = {
        "model_type": "siglip_vision_model",
        "image_size": 64,
        "patch_size": 8,
        "num_channels": 9,
        "hidden_size": 96,
        "intermediate_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "vision_use_head": False,
    }
    language = {
        "model_type": "qwen2",
        "vocab_size": vocab_size,
        "hidden_size": 128,
        "intermediate_size": 320,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "initializer_range": 0.04,
        "tie_word_embeddings": True,
    }
    fields_of_ours: dict[str, Any] = {
        "num_frames": 8,
        "time_encoding": "interleaved",
        "image_pooling": True,
        "queries_in_text_tasks": True,
        "tower_frames": 3,
        "decoder_hidden_size": 256,
        "wordings": "one",
        "system_prompt": "",
        "vision_feature_layer": -1,
        "tie_word_embeddings": True,
        "image_token_index": 0,
        "video_token_index": 0,
    }
    parts: dict[str, Any] = {"vision_config": tower | dict(vision or {}), "text_config": language | dict(text or {})}
    return SpaceVLLMConfig(**(parts | fields_of_ours | fields))
