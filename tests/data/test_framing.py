import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from verisal.data.decode import Frame


def test_a_wide_picture_loses_its_sides():
    frame = Frame.around(2, 6, size=2)
    image = torch.arange(12, dtype=torch.float32).view(1, 2, 6) / 16
    assert frame.image(image).equal(image[:, :, 2:4])
    boxes = torch.tensor([[1.0, 0, 3, 1], [0, 0, 2, 2], [3, 1, 6, 2]])
    # The second one ends where the square begins.
    assert frame.boxes(boxes).tolist() == [[0, 0, 1, 1], [0, 0, 0, 2], [1, 1, 2, 2]]


def test_a_picture_that_shrinks_shrinks_its_marks():
    # 4 x 8 to 2 x 4, then the middle 2 columns: x goes to x / 2 - 1.
    frame = Frame.around(4, 8, size=2)
    assert frame.scaled == (2, 4)
    assert frame.boxes(torch.tensor([[2.0, 0, 5, 2]])).tolist() == [[0, 0, 1.5, 1]]
    masks = torch.zeros(2, 4, 8, dtype=torch.bool)
    masks[0, :2, 2:4] = True
    masks[1, :, 4:] = True
    assert frame.masks(masks).tolist() == [[[True, False], [False, False]], [[False, True], [False, True]]]


def test_masks_follow_the_pixels_of_the_image():
    mask = torch.zeros(23, 31, dtype=torch.bool)
    mask[5:17, 9:22] = True
    frame = Frame.around(23, 31, size=10)
    assert frame.masks(mask[None])[0].equal(frame.image(mask[None].float())[0] >= 0.5)


def test_a_frame_without_objects_is_empty():
    frame = Frame.around(4, 8, size=3)
    assert frame.masks(torch.zeros(0, 4, 8, dtype=torch.bool)).shape == (0, 3, 3)
    assert frame.boxes(torch.zeros(0, 4)).shape == (0, 4)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 50), (50, 1), (7, 224), (333, 500)])
@pytest.mark.parametrize("share", [1.0, 0.875, 0.1])
def test_every_shape_becomes_the_square(height, width, share):
    frame = Frame.around(height, width, size=5, crop_share=share)
    assert frame.image(torch.full((3, height, width), 0.25)).shape == (3, 5, 5)
    assert frame.masks(torch.ones(1, height, width, dtype=torch.bool)).all()
    assert frame.boxes(torch.tensor([[0.0, 0, width, height]])).tolist() == [[0, 0, 5, 5]]


class Largest(TorchDispatchMode):
    """Notes the largest number of bytes that one operation makes."""

    bytes_made = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        made = operation(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and not operation.is_view:
            self.bytes_made = max(self.bytes_made, made.nbytes)
        return made


@pytest.mark.parametrize("shape", [(2, 20_000), (20_000, 2), (1, 30_000), (60, 900), (100, 100)])
@pytest.mark.parametrize("share", [1.0, 0.1])
def test_memory_grows_with_the_square_whatever_the_shape(shape, share):
    size = 224
    image = torch.rand(3, *shape)
    frame = Frame.around(*shape, size=size, crop_share=share)
    with Largest() as largest:
        assert frame.image(image).shape == (3, size, size)
    # The weights of a line, or a picture of four squares.
    assert largest.bytes_made <= max(4 * 3 * size**2, size * max(shape)) * 4 + 1000
    with Largest() as largest:
        assert frame.masks(image > 0.5).shape == (3, size, size)
    assert largest.bytes_made <= max(4 * 3 * size**2, size * max(shape)) * 4 + 1000


@pytest.mark.parametrize("shape", [(2, 600), (600, 2), (37, 211), (20, 900), (5, 29), (224, 2000)])
@pytest.mark.parametrize(("size", "share"), [(32, 1.0), (50, 0.875), (10, 0.1)])
def test_a_strip_becomes_the_middle_of_the_whole_resized(shape, size, share):
    image = torch.rand(3, *shape)
    frame = Frame.around(*shape, size=size, crop_share=share)
    whole = F.interpolate(image[None], size=frame.scaled, mode="bilinear", antialias=True)[0]
    top, left = ((length - size) // 2 for length in frame.scaled)
    middle = whole[:, top : top + size, left : left + size]
    torch.testing.assert_close(frame.image(image), middle, rtol=0, atol=1e-6)


def test_objects_of_a_strip_lie_where_its_pixels_do():
    # 2 x 20 000 to 32 x 320 000: the square shows columns 9999 and 10000.
    image = torch.zeros(1, 2, 20_000)
    image[:, 0, 9999] = 1
    frame = Frame.around(2, 20_000, size=32)
    assert frame.boxes(torch.tensor([[9999.0, 0, 10_000, 1]])).tolist() == [[0, 0, 16, 16]]
    mask = frame.masks(image.bool())[0]
    assert mask.equal(frame.image(image)[0] >= 0.5)
    assert mask[2:10, 6:10].all()
    assert not mask[19:].any()
    assert not mask[:, 19:].any()


def test_the_usual_frame_of_imagenet_is_256_then_224():
    frame = Frame.around(375, 500, size=224, crop_share=0.875)
    assert frame.scaled == (256, 341)
    # The corner of the crop: 16 rows and 58 columns.
    assert frame.boxes(torch.tensor([[250.0, 187.5, 251, 188]]))[0, :2].tolist() == [250 * 0.682 - 58, 112]
