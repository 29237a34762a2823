import pytest
import torch

from verisal.data.framing import Frame


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


def test_the_usual_frame_of_imagenet_is_256_then_224():
    frame = Frame.around(375, 500, size=224, crop_share=0.875)
    assert frame.scaled == (256, 341)
    # The corner of the crop: 16 rows and 58 columns.
    assert frame.boxes(torch.tensor([[250.0, 187.5, 251, 188]]))[0, :2].tolist() == [250 * 0.682 - 58, 112]
