from __future__ import annotations

import pytest
import torch

from spacevllm.model.space_decoder import QueryGuidedSpaceDecoder


def inputs(seed: int = 0, width: int = 16):
    generator = torch.Generator().manual_seed(seed)
    visual = torch.randn(2, 3, 4, width, generator=generator)
    query = torch.randn(2, 3, width, generator=generator)
    caption = torch.randn(2, 5, width, generator=generator)
    return visual, query, caption, torch.ones(2, 3, 4, dtype=torch.bool), torch.ones(2, 5, dtype=torch.bool)


def test_parameter_free_attention_has_no_parameters_but_the_mlp():
    free = QueryGuidedSpaceDecoder(16, 8, "parameter_free", 2)
    learned = QueryGuidedSpaceDecoder(16, 8, "learned", 2)
    mlp = sum(p.numel() for p in free.box_head.parameters())
    assert sum(p.numel() for p in free.parameters()) == mlp
    assert sum(p.numel() for p in learned.parameters()) == mlp + 2 * 2 * 3 * 16 * 16


@pytest.mark.parametrize("attention", ["parameter_free", "learned"])
def test_boxes_lie_in_the_frame_and_depend_on_the_caption(attention):
    torch.manual_seed(0)
    decoder = QueryGuidedSpaceDecoder(16, 8, attention, 1)
    visual, query, caption, *masks = inputs()
    out = decoder(visual, query, caption, *masks)
    assert out.boxes.shape == (2, 3, 4) and ((out.boxes > 0) & (out.boxes < 1)).all()
    assert out.attention_logits.shape == (2, 3, 4)
    other = decoder(visual, query, caption.flip(0), *masks)
    assert not torch.allclose(out.boxes, other.boxes)  # the query alone never saw the caption


def test_without_the_first_attention_the_caption_changes_nothing():
    decoder = QueryGuidedSpaceDecoder(16, 8, "learned", 2, dual=False)
    visual, query, caption, *masks = inputs()
    out = decoder(visual, query, caption, *masks)
    assert torch.equal(decoder(visual, query, caption.flip(0), *masks).boxes, out.boxes)
    assert not torch.allclose(decoder(visual.flip(0), query, caption, *masks).boxes, out.boxes)


def test_the_formula():
    decoder = QueryGuidedSpaceDecoder(16, 8, "parameter_free", 1)
    visual, query, caption, *masks = inputs()
    norm = torch.nn.LayerNorm(16, elementwise_affine=False)
    v, q, t = visual[1, 2], query[1, 2], caption[1]  # (P, D), (D,), (M, D)
    v = v + (norm(v) @ norm(t).T / 4).softmax(-1) @ t
    q = q + (norm(q) @ norm(v).T / 4).softmax(-1) @ v
    expected = decoder.box_head(norm(q)).sigmoid()
    assert torch.allclose(decoder(visual, query, caption, *masks).boxes[1, 2], expected, atol=1e-6)


def test_masked_tokens_change_nothing():
    decoder = QueryGuidedSpaceDecoder(16, 8, "parameter_free", 1)
    visual, query, caption, seen, read = inputs()
    seen[:, :, 3] = False
    read[:, 4] = False
    out = decoder(visual, query, caption, seen, read)
    visual[:, :, 3], caption[:, 4] = 99.0, -99.0
    assert torch.allclose(decoder(visual, query, caption, seen, read).boxes, out.boxes)
