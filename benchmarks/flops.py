"""Model FLOPs, counted from the weights that are there: two a weight and token, and attention's two products."""

from __future__ import annotations

from torch import nn

from spacevllm.model.modeling import SpaceVLLM


class Flops:
    """FLOPs of one forward pass of each part of a model.

    Embeddings, norms and activations are left out, as is usual; attention counts the pairs that are not masked.
    """

    def __init__(self, model: SpaceVLLM) -> None:
        self.config = config = model.config
        self.language_weights = _linear_weights(model.model.language_model)
        self.tower_weights = _linear_weights(model.model.vision_tower)
        self.projector_weights = _linear_weights(model.model.multi_modal_projector)
        self.word_weights = model.lm_head.weight.numel()
        self.box_weights = _linear_weights(model.space_decoder.box_head)
        self.patches = (config.image_size // config.vision.patch_size) ** 2

    def vision(self, frames: int) -> float:
        """Tower and projector; the patch embedding, a convolution, is left out (0.1 % at full size)."""
        tower = self.config.vision
        weights = 2 * (self.tower_weights + self.projector_weights) * self.patches
        attention = 4 * self.patches**2 * tower.hidden_size * tower.num_hidden_layers
        return float(frames * (weights + attention))

    def language(self, behind: int, tokens: int) -> float:
        """``tokens`` in a row behind ``behind`` others, causal; without the LM head."""
        text, pairs = self.config.text, tokens * behind + tokens * (tokens + 1) / 2
        return 2 * self.language_weights * tokens + 4 * pairs * text.hidden_size * text.num_hidden_layers

    def words(self, tokens: int) -> float:
        """The LM head."""
        return 2.0 * self.word_weights * tokens

    def boxes(self, questions: int, caption: int = 20) -> float:
        """The space decoder without learned projections: two attentions and the MLP, every frame."""
        frames, cells, width = self.config.num_frames, self.config.grid(pooled=True) ** 2, self.config.text.hidden_size
        attention = 4 * cells * (caption + 1) * width
        return questions * frames * (attention + 2 * self.box_weights) * float(self.config.decoder_layers)

    def training_row(self, prefix: int, questions: int, segment: int, answer: int) -> float:
        """A packed row without the tower: prefix once, then every question with its answer, and their boxes."""
        asked = questions * (self.language(prefix, segment) + self.words(answer))
        return self.language(0, prefix) + asked + self.boxes(questions)


def _linear_weights(module: nn.Module) -> int:
    return sum(part.weight.numel() for part in module.modules() if isinstance(part, nn.Linear))
