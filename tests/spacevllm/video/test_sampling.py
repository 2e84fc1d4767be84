from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spacevllm.video.sampling import uniform_indices

counts = st.integers(1, 300)


@given(num_frames=st.integers(1, 200_000), count=counts)
def test_indices_are_frames_in_order_from_the_first_to_the_last(num_frames: int, count: int) -> None:
    indices = uniform_indices(num_frames, count)
    assert indices.shape == (count,) and indices.dtype == np.int64
    assert (np.diff(indices) >= 0).all()
    assert indices[0] == 0
    assert indices[-1] == (num_frames - 1 if count > 1 else 0)


@given(num_frames=st.integers(2, 200_000), count=st.integers(2, 300))
def test_steps_are_even_within_one_frame(num_frames: int, count: int) -> None:
    steps = np.diff(uniform_indices(num_frames, count))
    assert steps.max() - steps.min() <= 1


def test_known_values() -> None:
    assert uniform_indices(57, 8).tolist() == [0, 8, 16, 24, 32, 40, 48, 56]
    assert uniform_indices(10, 4).tolist() == [0, 3, 6, 9]
    assert uniform_indices(3, 6).tolist() == [0, 0, 0, 1, 1, 2]  # a short clip repeats frames
    assert uniform_indices(28, 100).tolist() == [int(v) for v in np.linspace(0, 27, 100)]  # rounding included


@pytest.mark.parametrize(("num_frames", "count"), [(0, 8), (-1, 8), (8, 0)])
def test_nothing_to_sample_is_refused(num_frames: int, count: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        uniform_indices(num_frames, count)
